"""Write the files of a release: zips for Lambda, licence texts, bill of materials, checksums.

release.py BUILDS: BUILDS/ARCHITECTURE/bootstrap is the function for that architecture. The files are written to
target/release-VERSION. The same builds give the same files, byte by byte.
"""

import hashlib
import json
import shutil
import sys
import zipfile
from pathlib import Path

import zopfli

import notices
from artefact import architecture

ARCHITECTURES = ("arm64", "x86_64")


def write_zip(path: Path, binary: bytes) -> None:
    """Write a zip for Lambda: an executable `bootstrap` at the root.

    Zopfli takes half a minute for a binary. Its zip is 3 % smaller than that of zlib, and unpacks as fast.
    """
    # 1980 is the zero of zip's clock.
    entry = zipfile.ZipInfo("bootstrap", date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system = 3  # Unix: the attributes have the mode
    entry.external_attr = 0o100755 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    with zopfli.ZipFile(path, "w") as archive:
        archive.writestr(entry, binary)


def main() -> None:
    builds = Path(sys.argv[1])
    own, packages, needs = notices.linked()
    folder = Path("target") / f"release-{own['version']}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for wanted in ARCHITECTURES:
        binary = (builds / wanted / "bootstrap").read_bytes()
        if architecture(binary) != wanted:
            sys.exit(f"{builds}/{wanted}/bootstrap is not an ELF binary for {wanted}")
        write_zip(folder / f"spillway-{own['version']}-{wanted}.zip", binary)
    try:
        (folder / "NOTICES").write_text(notices.notices(own, packages))
    except notices.MissingText as error:
        sys.exit(str(error))
    bill = notices.bill_of_materials(own, packages, needs)
    (folder / "SBOM.cdx.json").write_text(json.dumps(bill, indent=2) + "\n")
    shutil.copy("LICENSE", folder)
    files = sorted(folder.iterdir())
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (folder / "SHA256SUMS").write_text("".join(sums))
    for file in sorted(folder.iterdir()):
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
