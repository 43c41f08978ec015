"""The check of deploy/NAME.toml: each mistake is reported, and a right file passes."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "scripts"))

from check_settings import EXAMPLE, PLACEHOLDERS, mistakes, shared_stacks  # noqa: E402


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
        self.assertEqual(found, ["the template has no parameter SlotNam. Did you mean SlotName?"])

    def test_a_boolean_needs_quotes(self):
        found = self.found_in("CreateStream = false")
        self.assertEqual(found, ['CreateStream needs quotes: CreateStream = "false"'])

    def test_alarms_must_be_longer_than_the_invocations(self):
        found = self.found_in('Timeout = "900"')
        self.assertEqual([mistake.split()[0] for mistake in found], ["AlarmSilentMinutes", "AlarmErrorMinutes"])
        self.assertTrue(found[0].endswith("at least 16") and found[1].endswith("at least 46"), found)
        self.assertEqual(self.found_in("Timeout = 900", "AlarmSilentMinutes = 16", 'AlarmErrorMinutes = "46"'), [])
        self.assertEqual(self.found_in("Timeout = 600", "AlarmSilentMinutes = 11", "AlarmErrorMinutes = 31"), [])

    def test_a_syntax_error_is_one_line_with_the_name_of_the_file(self):
        with self.assertRaisesRegex(SystemExit, r"orders\.toml: .*with the quotes$"):
            self.found_in("DbHost = db.internal")

    def test_a_file_without_parameters_is_reported(self):
        self.assertIn("GUIDED=1", self.found("")[0])

    def test_answers_that_sam_stored_as_text_are_not_checked(self):
        self.assertEqual(self.found('parameter_overrides = "DbHost=db SlotName=orders"'), [])


class SharedStacks(unittest.TestCase):
    """Files of a folder, each by its name and the settings of its stack."""

    ANSWERS = 'parameter_overrides = "DbHost=db SlotName=orders"'
    ORDERS = 'stack_name = "spillway-orders"\nregion = "eu-central-1"'

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, name: str, settings: str, answers: str = ANSWERS) -> Path:
        file = self.folder / name
        file.write_text(f"[default.deploy.parameters]\n{settings}\n{answers}\n")
        return file

    def found(self, file: Path, **environment: str) -> list[str]:
        return shared_stacks(file, environment)

    def test_a_copy_with_the_stack_of_the_first_file_is_refused_and_so_is_the_first(self):
        # GUIDED=1 writes the name of the stack into the first file.
        first, copy = self.write("orders.toml", self.ORDERS), self.write("billing.toml", self.ORDERS)
        for file, other in ((first, copy), (copy, first)):
            found = self.found(file)
            self.assertEqual(len(found), 1)
            self.assertIn(f"{other} has the same stack: spillway-orders in eu-central-1", found[0])
            self.assertIn("another stack_name", found[0])

    def test_the_name_of_the_other_file_may_be_that_of_the_stack(self):
        self.write("orders.toml", 'region = "eu-central-1"')
        self.assertEqual(len(self.found(self.write("billing.toml", self.ORDERS))), 1)

    def test_a_copy_without_a_name_of_a_stack_has_another_stack(self):
        self.write("orders.toml", self.ORDERS)
        self.assertEqual(self.found(self.write("billing.toml", 'region = "eu-central-1"')), [])

    def test_another_region_or_account_has_another_stack_of_that_name(self):
        self.write("orders.toml", self.ORDERS)
        self.assertEqual(self.found(self.write("us.toml", self.ORDERS.replace("eu-central", "us-east"))), [])
        production = self.write("production.toml", self.ORDERS + '\nprofile = "production"')
        self.assertEqual(self.found(production), [])
        self.assertEqual(len(self.found(production, AWS_PROFILE="production")), 1)

    def test_a_file_without_a_region_has_that_of_the_environment_or_an_unknown_one(self):
        self.write("orders.toml", self.ORDERS)
        copy = self.write("billing.toml", 'stack_name = "spillway-orders"')
        self.assertEqual(len(self.found(copy)), 1)
        self.assertEqual(len(self.found(copy, AWS_DEFAULT_REGION="eu-central-1")), 1)
        self.assertEqual(self.found(copy, AWS_DEFAULT_REGION="us-east-1"), [])
        # SAM does not read it.
        self.assertEqual(len(self.found(copy, AWS_REGION="us-east-1")), 1)

    def test_another_file_that_cannot_be_read_stops_no_deploy(self):
        (self.write("broken.toml", self.ORDERS)).write_text("region = eu-central-1")
        self.assertEqual(self.found(self.write("orders.toml", self.ORDERS)), [])

    def test_the_example_and_a_file_without_parameters_have_no_stack(self):
        for name in ("example.toml", "new.toml"):
            self.write(name, self.ORDERS, answers=self.ANSWERS if name == "example.toml" else "")
        self.assertEqual(self.found(self.write("orders.toml", self.ORDERS)), [])

    def test_the_command_names_both_files_also_before_sam_asks_for_the_parameters(self):
        first, copy = self.write("orders.toml", self.ORDERS), self.write("billing.toml", self.ORDERS, answers="")
        command = [sys.executable, str(PROJECT / "scripts" / "check_settings.py"), str(copy)]
        for more, count in (([], 2), (["--guided"], 1)):
            outcome = subprocess.run([*command, *more], capture_output=True, text=True)
            lines = outcome.stderr.splitlines()
            self.assertEqual((outcome.returncode, len(lines)), (1, count))
            self.assertTrue(lines[0].startswith(f"{copy}: {first} has"), lines[0])
        copy.unlink()
        outcome = subprocess.run([*command[:2], str(first)], capture_output=True, text=True)
        self.assertEqual((outcome.returncode, outcome.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
