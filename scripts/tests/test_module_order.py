"""The order of modules: an import upwards and a circle are found, whatever form the import has."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import module_order  # noqa: E402

ORDER = {"drain": 0, "encode": 1, "pack": 1, "change": 2}


def problems(pack: str = "", **texts: str) -> list[str]:
    """The problems of modules whose paths have `__` in place of `::`."""
    texts["pack"] = pack
    return module_order.problems(ORDER, {tuple(name.split("__")): text for name, text in texts.items()})


class ModuleOrder(unittest.TestCase):
    def test_imports_downwards_are_accepted(self):
        self.assertEqual(problems(drain="use crate::encode::Row;", encode="use crate::change::Change;", change=""), [])

    def test_an_import_upwards_is_named(self):
        for text in ["use crate::drain::Tip;", "use crate::{change::Change, drain::{Tip, Window}};",
                     "fn f() { crate::drain::tip() }"]:
            found = problems(drain="", encode="", change="", encode__row=text)
            self.assertEqual(found, ["encode/row: encode imports drain, which is not below it"])

    def test_an_import_in_the_same_line_is_named(self):
        found = problems(drain="", encode="use crate::pack::Lane;", change="")
        self.assertEqual(found, ["encode: encode imports pack, which is not below it"])

    def test_a_circle_in_a_folder_is_named(self):
        for text in ["use super::row::Row;", "use crate::encode::row::{Row, name};", "use super::super::encode::row;"]:
            found = problems(drain="", encode="", change="", encode__row="use super::key::Key;", encode__key=text)
            self.assertIn("a circle: encode::key imports encode::row imports encode::key", found)

    def test_a_name_that_the_folder_reexports_belongs_to_its_module(self):
        found = problems(drain="", change="", encode="pub use row::Row;", encode__row="use super::key::Key;",
                         encode__key="use super::Row;")
        self.assertIn("a circle: encode::key imports encode::row imports encode::key", found)

    def test_a_folder_and_its_modules_may_import_each_other(self):
        self.assertEqual(problems(drain="", change="", encode="use row::Row;", encode__row="use super::Encoder;"), [])

    def test_a_module_that_the_fuzz_library_lacks_is_named(self):
        texts = {("checkpoint",): "use crate::varint;", ("varint",): "", ("drain",): "use crate::checkpoint::Store;"}
        lacking, whole = "    pub mod checkpoint;", "    pub mod checkpoint;\n    mod varint;"
        for library, found in [(lacking, ["varint"]), (whole, [])]:
            wrong = module_order.missing_of_fuzz(library, texts)
            self.assertEqual(wrong, [f"fuzz/src/lib.rs lacks {name}, which its modules import" for name in found])

    def test_a_crate_that_the_fuzz_targets_lack_is_named(self):
        texts = {("encode",): "use base64_simd::STANDARD;\nhex::encode(x)", ("drain",): "tokio::spawn(x)"}
        of_drain, of_fuzz = {"base64_simd", "hex", "tokio"}, module_order.crates('[dependencies]\nhex = "0.4"\n')
        wrong = module_order.missing_crates_of_fuzz("    mod encode;", texts, of_drain, of_fuzz)
        self.assertEqual(wrong, ["fuzz/Cargo.toml lacks base64_simd, which its modules use"])
        self.assertEqual(module_order.crates('[dependencies]\nmd-5 = "0.11"\n'), {"md5"})


if __name__ == "__main__":
    unittest.main()
