"""The function that prepares the database of examples/cluster.yaml: CloudFormation always gets an answer."""

import contextlib
import io
import json
import sys
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "examples" / "bootstrap"))

import app  # noqa: E402

EVENT = {"ResponseURL": "https://example.com/answer", "StackId": "s", "RequestId": "r", "LogicalResourceId": "Database"}
CONTEXT = SimpleNamespace(log_stream_name="the-log")


class Answers(unittest.TestCase):
    def answer(self, kind: str, connection) -> dict:
        """The answer to CloudFormation for a request of this kind."""
        with mock.patch.object(app, "connect", connection), mock.patch.object(app.urllib.request, "urlopen") as sent, \
                contextlib.redirect_stdout(io.StringIO()):
            app.handler(EVENT | {"RequestType": kind}, CONTEXT)
        request, = sent.call_args.args
        self.assertEqual((request.method, request.full_url), ("PUT", EVENT["ResponseURL"]))
        body = json.loads(request.data)
        self.assertEqual({name: body[name] for name in ("StackId", "RequestId", "LogicalResourceId")},
                         {name: EVENT[name] for name in ("StackId", "RequestId", "LogicalResourceId")})
        return body

    def test_every_statement_runs_and_success_is_reported(self):
        connection = mock.Mock()
        self.assertEqual(self.answer("Create", lambda: connection)["Status"], "SUCCESS")
        self.assertEqual([call.args[0] for call in connection.run.call_args_list], list(app.PREPARE))

    def test_a_failure_is_reported_with_its_cause_and_where_to_look(self):
        body = self.answer("Create", mock.Mock(side_effect=OSError("no way to the cluster")))
        self.assertEqual(body["Status"], "FAILED")
        self.assertIn("no way to the cluster", body["Reason"])
        self.assertIn("the-log", body["Reason"])

    def test_a_delete_needs_no_database(self):
        body = self.answer("Delete", mock.Mock(side_effect=OSError("the cluster is gone")))
        self.assertEqual(body["Status"], "SUCCESS")


class Writes(unittest.TestCase):
    def test_each_statement_gets_the_parameters_that_it_names(self):
        connection = mock.Mock()
        with mock.patch.object(app, "connect", lambda: connection):
            self.assertEqual(app.handler({"transactions": 2}, CONTEXT), {"transactions": 2})
        calls = connection.run.call_args_list
        self.assertEqual(len(calls), 2 * (len(app.TRANSACTION) + 2))
        for call in calls:
            for name in ("aid", "tid", "delta"):
                self.assertEqual(f":{name}" in call.args[0], name in call.kwargs, call)


if __name__ == "__main__":
    unittest.main()
