"""Check deploy/NAME.toml before a deploy. SAM reports these mistakes late, unclearly, or not at all.

check_settings.py FILE. SAM ignores the name of a parameter that the template does not have, and the parameter then
has its default.
"""

import difflib
import re
import sys
from pathlib import Path

from stack import stack_settings

PROJECT = Path(__file__).resolve().parent.parent
EXAMPLE = PROJECT / "deploy" / "example.toml"
# Values of the example that are nobody's. Its DbName and SlotName may be right.
PLACEHOLDERS = ("DbHost", "DbResourceId", "SubnetIds", "SecurityGroupIds", "AlarmEmail")


def template_parameters() -> list[str]:
    """Names of the template's parameters."""
    section = re.search(r"(?ms)^Parameters:\n(.*?)^\S", (PROJECT / "template.yaml").read_text())[1]
    return re.findall(r"(?m)^  (\w+):$", section)


def mistakes(file: Path) -> list[str]:
    """A line for each mistake in the settings."""
    given = stack_settings(file).get("parameter_overrides")
    if not given:
        return ["no parameters. Copy them from deploy/example.toml, or let GUIDED=1 ask for them"]
    if not isinstance(given, dict):
        # SAM stores the answers to --guided as one text.
        return []
    known, example = template_parameters(), stack_settings(EXAMPLE)["parameter_overrides"]
    found = []
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            found.append(f"the template has no parameter {name}{f': {near[0]} is meant?' if near else ''}")
        elif isinstance(value, bool):
            found.append(f'{name} needs quotes: {name} = "{str(value).lower()}"')
        elif name in PLACEHOLDERS and value == example.get(name):
            found.append(f"{name} still has the example's value {value}")
    return found


def main() -> None:
    file = Path(sys.argv[1])
    found = mistakes(file)
    if found:
        sys.exit("\n".join(f"{file}: {mistake}" for mistake in found))


if __name__ == "__main__":
    main()
