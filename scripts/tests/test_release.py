"""Files of a release, and the template that deploys a zip of one."""

import contextlib
import io
import json
import stat
import sys
import tempfile
import unittest
import zipfile
import zlib
from pathlib import Path
from unittest import mock

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "scripts"))

import artefact  # noqa: E402
import notices  # noqa: E402
import release  # noqa: E402
import zip_template  # noqa: E402


def elf(machine: int) -> bytes:
    return b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little") + bytes(44)


class Zips(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def written(self, binary: bytes) -> Path:
        path = self.folder / "function.zip"
        release.write_zip(path, binary)
        return path

    def template_of(self, path: Path) -> str:
        output = self.folder / "out" / "template.yaml"
        with mock.patch.object(sys, "argv", ["", str(path), str(output)]), contextlib.redirect_stdout(io.StringIO()):
            zip_template.main()
        return output.read_text()

    def test_the_same_binary_makes_the_same_zip(self):
        first = self.written(elf(183)).read_bytes()
        self.assertEqual(self.written(elf(183)).read_bytes(), first)

    def test_the_zip_unpacks_to_the_binary_and_is_smaller_than_that_of_zlib(self):
        binary = Path(sys.executable).resolve().read_bytes()[:200_000]
        path = self.written(binary)
        self.assertLess(path.stat().st_size, len(zlib.compress(binary, 9)))
        with zipfile.ZipFile(path) as archive:
            self.assertEqual(archive.read("bootstrap"), binary)

    def test_bootstrap_at_the_root_is_executable(self):
        with zipfile.ZipFile(self.written(elf(183))) as archive:
            entry, = archive.infolist()
        self.assertEqual(entry.filename, "bootstrap")
        self.assertEqual(stat.S_IMODE(entry.external_attr >> 16), 0o755)
        self.assertEqual(entry.date_time, (1980, 1, 1, 0, 0, 0))

    def test_the_template_has_the_zip_and_its_architecture(self):
        for machine, name in artefact.MACHINES.items():
            path = self.written(elf(machine))
            template = self.template_of(path)
            self.assertIn(f"CodeUri: {json.dumps(str(path))}\n", template)
            self.assertIn(f"Architectures: [{name}]\n", template)
            self.assertNotIn("rust-cargolambda", template)

    def test_paths_of_other_code_still_lead_into_the_project(self):
        relative = [line for line in self.template_of(self.written(elf(183))).splitlines()
                    if line.strip().startswith("CodeUri: ") and not line.split()[1].strip('"').startswith("/")]
        self.assertEqual(relative, [])

    def test_a_zip_that_lambda_could_not_start_is_refused(self):
        text = self.folder / "text.zip"
        text.write_text("no zip")
        other = self.folder / "other.zip"
        with zipfile.ZipFile(other, "w") as archive:
            archive.writestr("drain", elf(183))
        plain = self.folder / "plain.zip"
        with zipfile.ZipFile(plain, "w") as archive:
            archive.writestr("bootstrap", elf(183))
        for path in (text, other, plain, self.written(elf(40)), self.folder / "missing.zip"):
            with self.assertRaises(SystemExit) as refused:
                self.template_of(path)
            self.assertIn(str(path), str(refused.exception))


class Texts(unittest.TestCase):
    def test_a_crate_without_a_licence_text_has_the_standard_one_or_stops_the_release(self):
        with tempfile.TemporaryDirectory() as folder:
            package = {"name": "x", "version": "1", "authors": ["Ada"], "manifest_path": f"{folder}/Cargo.toml"}
            self.assertIn("Copyright (c) Ada", notices.texts(package | {"license": "MIT"})[0])
            with self.assertRaises(notices.MissingText):
                notices.texts(package | {"license": "Zlib"})
            (Path(folder) / "src").mkdir()
            (Path(folder) / "src" / "license.rs").write_text("no licence")
            (Path(folder) / "LICENSE-ZLIB").write_text("the text")
            self.assertEqual(notices.texts(package | {"license": "Zlib"}), ["the text"])


if __name__ == "__main__":
    unittest.main()
