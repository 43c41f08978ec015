"""The check of deploy/NAME.toml: each mistake is reported, and a right file passes."""

import sys
import tempfile
import unittest
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "scripts"))

from check_settings import EXAMPLE, PLACEHOLDERS, mistakes  # noqa: E402


class CheckSettings(unittest.TestCase):
    def found(self, text: str) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "orders.toml"
            file.write_text("[default.deploy.parameters]\n" + text)
            return mistakes(file)

    def found_in(self, *parameters: str) -> list[str]:
        return self.found("\n".join(("[default.deploy.parameters.parameter_overrides]", *parameters)))

    def test_a_filled_file_passes(self):
        found = self.found_in('DbHost = "db.internal"', "DbPort = 5433", 'SubnetIds = ["subnet-0a", "subnet-0b"]')
        self.assertEqual(found, [])

    def test_a_copy_of_the_example_names_what_is_not_filled_in(self):
        self.assertEqual([mistake.split()[0] for mistake in mistakes(EXAMPLE)], list(PLACEHOLDERS))

    def test_an_unknown_name_is_reported_with_the_nearest_one(self):
        found = self.found_in('SlotNam = "orders"')
        self.assertEqual(found, ["the template has no parameter SlotNam: SlotName is meant?"])

    def test_a_boolean_needs_quotes(self):
        found = self.found_in("CreateStream = false")
        self.assertEqual(found, ['CreateStream needs quotes: CreateStream = "false"'])

    def test_a_syntax_error_is_one_line_with_the_name_of_the_file(self):
        with self.assertRaisesRegex(SystemExit, r"orders\.toml: .*with the quotes$"):
            self.found_in("DbHost = db.internal")

    def test_a_file_without_parameters_is_reported(self):
        self.assertIn("GUIDED=1", self.found("")[0])

    def test_answers_that_sam_stored_as_text_are_not_checked(self):
        self.assertEqual(self.found('parameter_overrides = "DbHost=db SlotName=orders"'), [])


if __name__ == "__main__":
    unittest.main()
