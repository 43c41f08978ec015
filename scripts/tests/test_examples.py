"""The consumers in examples/consumers are tested with the versions that their users install."""

import re
import unittest
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def requirements(file: Path) -> set[str]:
    return {line for line in file.read_text().splitlines() if line and not line.startswith("#")}


def version(pom: str, artifact: str) -> str:
    text = (PROJECT / "tests" / "consumers" / pom).read_text()
    return re.search(rf"<artifactId>{re.escape(artifact)}</artifactId><version>(.*)</version>", text)[1]


class Versions(unittest.TestCase):
    def test_each_requirement_is_one_of_the_tests(self):
        files = ("consumers.txt", "spark.txt")
        tested = set().union(*(requirements(PROJECT / "scripts" / "requirements" / file) for file in files))
        files = list(PROJECT.glob("examples/consumers/*/requirements.txt"))
        self.assertTrue(files)
        for file in files:
            self.assertLessEqual(requirements(file), tested, file)

    def test_flink_sql_names_the_versions_that_run_it(self):
        flink, paimon = version("flink.xml", "flink-table-runtime"), version("pom.xml", "paimon-flink-1.20")
        page = (PROJECT / "examples" / "consumers" / "flink_sql" / "README.md").read_text()
        self.assertIn(f"Flink {flink} and Paimon {paimon}", page)
        # Both folders are on one class path.
        self.assertEqual(flink, version("pom.xml", "flink-json"))


if __name__ == "__main__":
    unittest.main()
