"""The configuration file of a deploy, as SAM reads it."""

import sys
import tempfile
import unittest
from pathlib import Path

from samcli.cli.types import CfnParameterOverridesType
from samcli.lib.config.samconfig import SamConfig

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "scripts"))

from sam_config import template_defaults, write_config  # noqa: E402


class DeployedParameters(unittest.TestCase):
    def settings(self, text: str) -> dict:
        """The settings of `sam deploy` that SAM reads for this file."""
        with tempfile.TemporaryDirectory() as folder:
            file, output = Path(folder) / "orders.toml", Path(folder) / "config" / "orders.yaml"
            file.write_text(text)
            write_config(file, output)
            return SamConfig(output.parent, output.name).get_all(["deploy"], "parameters")

    def parameters(self, *lines: str, table: str = "default.deploy.parameters.parameter_overrides") -> dict:
        settings = self.settings("\n".join(("version = 0.1", f"[{table}]", *lines)))
        return CfnParameterOverridesType().convert(settings["parameter_overrides"], None, None)

    def test_a_parameter_that_the_file_lacks_has_the_default_of_the_template(self):
        parameters = self.parameters('DbHost = "db.internal"', "AlarmErrorMinutes = 40")
        expected = template_defaults() | {"DbHost": "db.internal", "AlarmErrorMinutes": "40"}
        self.assertEqual(parameters, expected)
        self.assertEqual(parameters["DbClusterIdentifier"], "")
        self.assertEqual(parameters["AlarmSilentMinutes"], "10")

    def test_parameters_of_all_commands_count(self):
        parameters = self.parameters('DbHost = "a"', table="default.global.parameters.parameter_overrides")
        self.assertEqual(parameters, template_defaults() | {"DbHost": "a"})

    def test_a_text_arrives_with_its_quotes_backslashes_and_spaces(self):
        texts = [
            '"Shop"."Order items"',
            '"Shop"."Orders":"Customer Id"',
            r"public.users.\"x\":omit",
            r"'a\ b'",
            r"\d+\\ ",
            '"',
            "",
            " a ",
            "Größe 𝄞",
        ]
        for text in texts:
            with self.subTest(text):
                self.assertEqual(self.parameters(f"Tables = '''{text}'''")["Tables"], text)

    def test_a_list_is_joined_and_other_settings_stay(self):
        text = ('version = 0.1\n[default.deploy.parameters]\nregion = "eu-west-1"\nresolve_s3 = true\n'
                '[default.deploy.parameters.parameter_overrides]\nSubnetIds = ["subnet-0a", "subnet-0b"]\n')
        settings = self.settings(text)
        parameters = CfnParameterOverridesType().convert(settings.pop("parameter_overrides"), None, None)
        self.assertEqual(parameters["SubnetIds"], "subnet-0a,subnet-0b")
        self.assertEqual(settings, {"region": "eu-west-1", "resolve_s3": True})

    def test_answers_to_guided_stay_as_they_are(self):
        answers = 'DbHost=\\"db\\" SlotName=\\"orders\\"'
        settings = self.settings(f'version = 0.1\n[default.deploy.parameters]\nparameter_overrides = "{answers}"')
        self.assertEqual(settings["parameter_overrides"], 'DbHost="db" SlotName="orders"')


if __name__ == "__main__":
    unittest.main()
