"""Lets Python call the libraries of pom.xml: a JVM in this process, and what both programs do with it."""

import pathlib
import sys

import jpype

JARS = pathlib.Path(__file__).resolve().parents[2] / ".tools" / "jars"


def start():
    """Starts the JVM with all libraries."""
    jars = sorted(str(jar) for jar in JARS.glob("*.jar"))
    if not jars:
        sys.exit(f"no libraries in {JARS}: `make tools-consumers` installs them")
    jpype.startJVM(classpath=jars)


def collector(collect):
    """Flink's Collector, which hands what it is given to `collect`."""

    @jpype.JImplements("org.apache.flink.util.Collector")
    class Collector:
        @jpype.JOverride
        def collect(self, row):
            collect(row)

        @jpype.JOverride
        def close(self):
            pass

    return Collector()
