"""The settings that docs/configuration.md names are those of the function's session."""

import re
import unittest
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]

# Settings of the session that change no text of a value.
OTHERS = {"client_min_messages", "lock_timeout", "jit", "tcp_keepalives_idle", "tcp_keepalives_interval",
          "tcp_keepalives_count", "tcp_user_timeout", "client_connection_check_interval",
          "standard_conforming_strings"}


class Hashes(unittest.TestCase):
    def test_the_sql_of_a_hash_sets_all_settings_that_change_a_text(self):
        source = (PROJECT / "functions/drain/src/postgres/connection.rs").read_text()
        block = re.search(r"(?s)const SETTINGS: .*?= \[(.*?)\n\];", source)[1]
        session = dict(re.findall(r'\("(\w+)", "([^"]*)"\)', block))
        page = (PROJECT / "docs/configuration.md").read_text()
        documented = dict(re.findall(r"set (\w+) = '?([^';]*)'?;", page))
        self.assertEqual(documented, {name: value for name, value in session.items() if name not in OTHERS})


if __name__ == "__main__":
    unittest.main()
