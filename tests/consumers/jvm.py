"""A JVM in this process, with the libraries of pom.xml."""

import pathlib
import sys

import jpype

TOOLS = pathlib.Path(__file__).resolve().parents[2] / ".tools"


def start(*options, folders=("jars",)):
    """Start the JVM with all libraries of these folders, and with options such as -Xmx1g."""
    jars = []
    for folder in folders:
        found = sorted(str(jar) for jar in (TOOLS / folder).glob("*.jar"))
        if not found:
            sys.exit(f"no libraries in {TOOLS / folder}: `make tools-consumers tools-flink` installs them")
        jars += found
    jpype.startJVM(*options, classpath=jars)


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
