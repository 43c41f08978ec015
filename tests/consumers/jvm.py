"""A JVM in this process, with the libraries of pom.xml."""

import pathlib
import sys

import jpype

JARS = pathlib.Path(__file__).resolve().parents[2] / ".tools" / "jars"


def start():
    """Start the JVM with all libraries."""
    jars = sorted(str(jar) for jar in JARS.glob("*.jar"))
    if not jars:
        sys.exit(f"no libraries in {JARS}: `make tools-consumers` installs them")
    jpype.startJVM(classpath=jars)


def collector(collect):
    """A Collector of Flink that calls `collect` with each row."""

    @jpype.JImplements("org.apache.flink.util.Collector")
    class Collector:
        @jpype.JOverride
        def collect(self, row):
            collect(row)

        @jpype.JOverride
        def close(self):
            pass

    return Collector()
