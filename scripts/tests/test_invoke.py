"""The stack that `make invoke` sends an event to: its name, region and account."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

try:
    import boto3
except ImportError:  # `make check` runs these tests with the Python of SAM, which has it
    raise unittest.SkipTest("boto3 is not installed") from None

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "scripts"))

import invoke  # noqa: E402

SETTINGS = '[default.deploy.parameters]\nregion = "eu-central-1"\n'
WALK_THROUGH = {"STACK": "spillway-example-Spillway-1", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}


class FakeSession:
    """Session of boto3 that stores what was asked for."""

    def __init__(self, region_name, profile_name):
        self.region_name, self.profile_name, self.events = region_name, profile_name, []

    def client(self, service, config=None):
        return self

    def describe_stack_resource(self, StackName, LogicalResourceId):
        self.stack = StackName
        return {"StackResourceDetail": {"PhysicalResourceId": "the-function"}}

    def invoke(self, FunctionName, Payload):
        self.events.append(Payload)
        return {"Payload": io.BytesIO(b'{"action":"teardown"}')}


class Invoke(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name) / "orders.toml"
        self.file.write_text(SETTINGS)

    def target(self, environment: dict, given_env: str = "") -> tuple:
        return tuple(invoke.target(self.file, given_env, environment))

    def test_the_file_names_stack_and_region_whatever_the_environment_has(self):
        for given_env in ("", "orders"):
            self.assertEqual(self.target({"AWS_REGION": "us-east-1"}, given_env),
                             ("spillway-orders", "eu-central-1", None))

    def test_without_a_region_in_the_file_it_is_that_of_the_environment(self):
        self.file.write_text("")
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            self.assertEqual(self.target({name: "us-east-1"}), ("spillway-orders", "us-east-1", None))

    def test_with_a_stack_the_file_does_not_count(self):
        self.file.write_text(SETTINGS + 'profile = "production"\n')
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            self.assertEqual(self.target({"STACK": "other", name: "us-east-1"}), ("other", "us-east-1", None))
        self.assertEqual(self.target({"STACK": "other"}), ("other", None, None))

    def test_a_stack_beside_a_given_env_is_refused(self):
        with self.assertRaisesRegex(SystemExit, "STACK is other, and ENV=orders"):
            self.target({"STACK": "other", "AWS_REGION": "us-east-1"}, "orders")

    def test_no_stack_is_refused(self):
        self.file.unlink()
        with self.assertRaisesRegex(SystemExit, r"orders\.toml does not exist"):
            self.target({"AWS_REGION": "us-east-1"})

    def test_the_profile_of_the_file_takes_precedence_as_in_sam(self):
        self.file.write_text(SETTINGS + 'profile = "production"\n')
        environment = {"AWS_PROFILE": "other", "AWS_ACCESS_KEY_ID": "key"}
        self.assertEqual(self.target(environment), ("spillway-orders", "eu-central-1", "production"))

    def run_script(self, *arguments: str, environment: dict) -> tuple[list[FakeSession], str]:
        """The sessions that the script opened, and its standard error."""
        sessions, errors = [], io.StringIO()

        def session(**settings):
            sessions.append(FakeSession(**settings))
            return sessions[-1]

        with (mock.patch.object(boto3, "Session", session), mock.patch.dict(os.environ, environment, clear=True),
              mock.patch.object(sys, "argv", ["invoke.py", '{"action":"teardown"}', *arguments]),
              contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors)):
            invoke.main()
        return sessions, errors.getvalue()

    def test_the_event_goes_to_the_account_of_the_file_and_the_stack_is_printed(self):
        self.file.write_text(SETTINGS + 'profile = "production"\n')
        [session], errors = self.run_script(str(self.file), "orders", environment={"AWS_PROFILE": "other"})
        self.assertEqual((session.profile_name, session.region_name, session.stack, session.events),
                         ("production", "eu-central-1", "spillway-orders", ['{"action":"teardown"}']))
        self.assertEqual(errors, "stack spillway-orders, region eu-central-1, profile production\n")

    def test_the_walk_through_names_its_stack(self):
        [session], errors = self.run_script("deploy/default.toml", environment=WALK_THROUGH)
        self.assertEqual((session.profile_name, session.region_name, session.stack, len(session.events)),
                         (None, "us-east-1", "spillway-example-Spillway-1", 1))
        self.assertEqual(errors, "stack spillway-example-Spillway-1, region us-east-1\n")


class Make(unittest.TestCase):
    def commands(self, *arguments: str) -> str:
        """The commands that make would run."""
        # The variables of a surrounding make would count as given.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        environment["ENV"] = "start-file-of-a-shell"
        run = subprocess.run(["make", "--dry-run", *arguments], cwd=PROJECT, env=environment, capture_output=True,
                             text=True, check=True)
        return run.stdout

    def test_only_an_env_of_the_command_line_counts_as_given(self):
        for command in ("invoke", "status", "plan"):
            self.assertRegex(self.commands(command), r"json'? deploy/default\.toml *(\\?\n|\|)")
            self.assertRegex(self.commands(command, "ENV=orders"), r"json'? deploy/orders\.toml orders *(\\?\n|\|)")

    def test_a_plan_names_keys_only_with_1(self):
        for keys, event in [("", "plan.json"), ("0", "plan.json"), ("1", "plan_keys.json")]:
            self.assertIn(f" events/{event} ", self.commands("plan", f"KEYS={keys}"))

    def test_a_deploy_has_all_parameters_unless_it_asks_for_them(self):
        deploy = ("deploy", "ZIP=a.zip", "ENV=orders", "--old-file=deploy/orders.toml")
        self.assertIn(f'--config-file "{PROJECT}/.aws-sam/config/orders.yaml"', self.commands(*deploy))
        self.assertIn(f'--config-file "{PROJECT}/deploy/orders.toml"', self.commands(*deploy, "GUIDED=1"))

    def test_an_event_is_sent_as_it_was_given(self):
        event = '{"tables":["public.t$old"],"where":"code like $$A$B$$"}'
        self.assertIn(f"'{event}'", self.commands("invoke", f"EVENT={event}"))


if __name__ == "__main__":
    unittest.main()
