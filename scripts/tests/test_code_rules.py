"""The rules of the code: each is found where it is broken, and not elsewhere."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import code_rules  # noqa: E402


def function(lines: int, name: str = "long") -> str:
    """A function of that many lines."""
    return f"pub(super) async fn {name}(\n    a: u8,\n) {{\n" + "    a();\n" * (lines - 4) + "}\n"


class CodeRules(unittest.TestCase):
    def test_a_function_over_sixty_lines_is_named(self):
        self.assertEqual(code_rules.problems("a.rs", function(60) + function(60)), [])
        found = code_rules.problems("a.rs", "trait T {\n    fn declared(&self);\n}\n" + function(61))
        self.assertEqual(found, ["a.rs:4: long has 61 lines, which are more than 60"])

    def test_a_table_may_be_longer(self):
        path, names = next(iter(code_rules.TABLES.items()))
        self.assertEqual(code_rules.problems(path, function(99, min(names))), [])

    def test_each_table_exists_and_is_long(self):
        for path, names in code_rules.TABLES.items():
            lines = (code_rules.ROOT / path).read_text().splitlines()
            long = {name for _, name, count in code_rules.functions(lines) if count > code_rules.MAX_FUNCTION_LINES}
            self.assertLessEqual(names, long, path)

    def test_a_long_file_and_a_wide_line_are_named(self):
        found = code_rules.problems("a.rs", "\n" * 500 + "x" * 111 + "\n")
        self.assertEqual(len(found), 2, found)
        self.assertEqual(code_rules.problems("a.rs", 'r#"' + "x" * 111 + '"#\n'), [])
        self.assertEqual(len(code_rules.problems("a.rs", '"' + "x" * 111 + ' for"\n')), 1)

    def test_a_wide_line_of_sql_is_named(self):
        found = code_rules.wide_lines("a.sql", "select 1\n" + "é" * 110 + "\n" + 'r"' + "-" * 109 + "\n")
        self.assertEqual(found, ["a.sql:3: the line exceeds 110 columns"])

    def test_sql_is_read_from_each_folder_by_path(self):
        read = code_rules.read(("functions/drain", "tests", "examples"), ".sql")
        self.assertEqual({path.split("/")[0] for path in read}, {"functions", "tests", "examples"})
        self.assertTrue(all(path.endswith(".sql") for path in read))

    def test_a_long_first_sentence_is_named(self):
        later = "/// Another sentence may have as many words as it needs to say all of it.\n"
        twelve = "/// " + "word " * 11 + "word.\n" + later
        self.assertEqual(code_rules.problems("a.rs", twelve), [])
        self.assertEqual(len(code_rules.problems("a.rs", twelve.replace("word.", "word word."))), 1)

    def test_a_repeated_type_name_is_named_with_its_places(self):
        found = code_rules.repeated_types({"a.rs": "pub struct Row;\n", "b.rs": "\nenum Row {\n"})
        self.assertEqual(found, ["the type name Row exists more than once: a.rs:1, b.rs:2"])


if __name__ == "__main__":
    unittest.main()
