"""Write the configuration file with which SAM deploys the stack of deploy/NAME.toml.

sam_config.py FILE OUTPUT. OUTPUT is YAML. It has the settings of FILE, with two changes:

- It has every parameter of the template that has a default. SAM would keep the value of the last deploy for a
  parameter that FILE lacks. So a line that was deleted, or a new default of the template, would have no effect.
- A text is put in quotes, and its spaces and quotes get a backslash. SAM removes the quotes around a value, and a
  backslash before a space or a quote. It keeps every other backslash.

`make deploy GUIDED=1` writes all parameters as one text, already with quotes. Such a text is copied unchanged.
"""

import json
import re
import sys
import tomllib
from pathlib import Path

from samcli.yamlhelper import yaml_parse

from stack import stack_settings

TEMPLATE = Path(__file__).resolve().parent.parent / "template.yaml"


def template_defaults() -> dict[str, str]:
    """The defaults of the template's parameters, as text. A parameter without a default is left out."""
    parameters = yaml_parse(TEMPLATE.read_text())["Parameters"]
    return {name: str(body["Default"]) for name, body in parameters.items() if "Default" in body}


def escaped(value: object) -> object:
    """The value, so that SAM reads a text as it is written in the file."""
    if not isinstance(value, str):
        return value
    return '"' + re.sub(r"""([ "'])""", r"\\\1", value) + '"'


def sam_config(file: Path) -> dict:
    """The settings of the file, for SAM."""
    config = tomllib.loads(file.read_text())
    given = stack_settings(file)["parameter_overrides"]
    if isinstance(given, dict):
        parameters = {name: escaped(value) for name, value in (template_defaults() | given).items()}
        deploy = config["default"].setdefault("deploy", {}).setdefault("parameters", {})
        deploy["parameter_overrides"] = parameters
    return config


def write_config(file: Path, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    # JSON is YAML.
    output.write_text(json.dumps(sam_config(file), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write_config(Path(sys.argv[1]), Path(sys.argv[2]))
