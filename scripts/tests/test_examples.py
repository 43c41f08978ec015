"""The consumers in examples/consumers are tested with the versions that their users install."""

import unittest
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def requirements(file: Path) -> set[str]:
    return {line for line in file.read_text().splitlines() if line and not line.startswith("#")}


class Versions(unittest.TestCase):
    def test_each_requirement_is_one_of_the_tests(self):
        tested = requirements(PROJECT / "scripts" / "requirements" / "consumers.txt")
        files = list(PROJECT.glob("examples/consumers/*/requirements.txt"))
        self.assertTrue(files)
        for file in files:
            self.assertLessEqual(requirements(file), tested, file)


if __name__ == "__main__":
    unittest.main()
