"""The file of a stack: the sources of its settings. The example fits the template."""

import re
import sys
import tempfile
import tomllib
import unittest
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "scripts"))

from fleet_dashboard import GRAPHS, dashboard  # noqa: E402
from stack import stack_settings  # noqa: E402

EXAMPLE = PROJECT / "deploy" / "example.toml"


def parameters() -> dict[str, bool]:
    """The template's parameters, and whether each has a default."""
    section = re.search(r"(?ms)^Parameters:\n(.*?)^\S", (PROJECT / "template.yaml").read_text())[1]
    blocks = re.findall(r"(?m)^  (\w+):\n((?:    .*\n|\n)+)", section)
    return {name: "    Default:" in body for name, body in blocks}


class Settings(unittest.TestCase):
    def settings(self, text: str) -> dict:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "orders.toml"
            file.write_text(text)
            return stack_settings(file)

    def test_settings_of_a_deploy_take_precedence_over_those_of_all_commands(self):
        text = ('[default.global.parameters]\nstack_name = "a"\nregion = "r"\n'
                '[default.deploy.parameters]\nstack_name = "b"\n')
        self.assertEqual(self.settings(text), {"stack_name": "b", "region": "r"})

    def test_settings_of_a_build_and_of_another_environment_do_not_count(self):
        text = '[default.build.parameters]\nregion = "r"\n[test.deploy.parameters]\nstack_name = "b"\n'
        self.assertEqual(self.settings(text), {"stack_name": "spillway-orders"})

    def test_a_missing_file_has_no_settings(self):
        self.assertEqual(stack_settings(Path("deploy/missing.toml")), {})


class Example(unittest.TestCase):
    def test_it_gives_each_parameter_without_a_default_and_no_unknown_one(self):
        given = set(stack_settings(EXAMPLE)["parameter_overrides"])
        known = parameters()
        self.assertGreater(len(known), 40)
        self.assertEqual({name for name, has_default in known.items() if not has_default} - given, set())
        self.assertEqual(given - set(known), set())
        self.assertEqual(len(given), 7)

    def test_its_comments_become_valid_settings(self):
        text = re.sub(r"(?m)^# (\w+ = )", r"\1", EXAMPLE.read_text())
        given = tomllib.loads(text)["default"]["deploy"]["parameters"]["parameter_overrides"]
        self.assertEqual(set(given) - set(parameters()), set())


class Dashboard(unittest.TestCase):
    def test_each_graph_has_each_stack(self):
        stacks = [{"stack_name": name, "region": "eu-central-1"} for name in ("a", "b", "c")]
        widgets = dashboard(stacks)["widgets"]
        self.assertEqual(len(widgets), len(GRAPHS))
        for widget in widgets:
            self.assertEqual([line[0] for line in widget["properties"]["metrics"]],
                             ["Spillway/a", "Spillway/b", "Spillway/c"])

    def test_the_function_writes_each_metric(self):
        summary = (PROJECT / "functions/drain/src/logging/summary.rs").read_text()
        for _, metric, _ in GRAPHS:
            self.assertIn(f'"{metric}"', summary)


if __name__ == "__main__":
    unittest.main()
