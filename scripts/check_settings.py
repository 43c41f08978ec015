"""Check deploy/NAME.toml before a deploy. SAM reports these mistakes late, unclearly, or not at all.

check_settings.py FILE [--guided]. SAM ignores the name of a parameter that the template does not have, and the
parameter then has its default. With --guided, only the name of the stack is checked: SAM asks for the parameters.
"""

import difflib
import os
import re
import sys
from pathlib import Path

from stack import stack_settings

PROJECT = Path(__file__).resolve().parent.parent
EXAMPLE = PROJECT / "deploy" / "example.toml"
# Parameters whose value in the example is never valid. The example's DbName and SlotName may be valid.
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
            found.append(f"the template has no parameter {name}{f'. Did you mean {near[0]}?' if near else ''}")
        elif isinstance(value, bool):
            found.append(f'{name} needs quotes: {name} = "{str(value).lower()}"')
        elif name in PLACEHOLDERS and value == example.get(name):
            found.append(f"{name} still has the example's value {value}")
    return found + short_alarms(given)


def short_alarms(given: dict) -> list[str]:
    """A line for each alarm that is shorter than the invocations that it watches."""
    template = (PROJECT / "template.yaml").read_text()

    def seconds(name: str, unit: int) -> int:
        default = re.search(rf"(?ms)^  {name}:\n.*?^    Default: (\d+)$", template)[1]
        value = str(given.get(name, default))
        # CloudFormation refuses another value.
        return int(value) * unit if value.isdecimal() else 0

    timeout, found = seconds("Timeout", 1), []
    for name, invocations in (("AlarmSilentMinutes", 1), ("AlarmErrorMinutes", 3)):
        minutes = seconds(name, 60)
        if timeout and minutes and minutes <= timeout * invocations:
            least = timeout * invocations // 60 + 1
            found.append(f"{name} is too short for a Timeout of {timeout} seconds: it needs at least {least}")
    return found


def region_and_profile(settings: dict, environment: dict) -> tuple[str | None, str]:
    """Region and profile of a deploy. As in SAM, those of the file take precedence. The region may be unknown."""
    # SAM reads AWS_DEFAULT_REGION, as boto3 does, and not AWS_REGION.
    region = settings.get("region") or environment.get("AWS_DEFAULT_REGION")
    return region, settings.get("profile") or environment.get("AWS_PROFILE") or "default"


def shared_stacks(file: Path, environment: dict) -> list[str]:
    """A line for each other file of the folder that has the same stack.

    A copied file has the stack of the first one if that file has a `stack_name`. GUIDED=1 writes one. A deploy of the
    copy would then replace the database of the first stack.
    """
    settings = stack_settings(file)
    region, profile = region_and_profile(settings, environment)
    found = []
    for other in sorted(file.parent.glob("*.toml")):
        if other == file:
            continue
        try:
            theirs = stack_settings(other)
        except SystemExit as error:
            # The other file is not deployed now.
            print(f"not compared: {error}", file=sys.stderr)
            continue
        # A file without parameters cannot be deployed. A refused GUIDED=1 leaves one.
        if other.name == EXAMPLE.name or not theirs.get("parameter_overrides"):
            continue
        their_region, their_profile = region_and_profile(theirs, environment)
        is_same_region = region == their_region or None in (region, their_region)
        if theirs["stack_name"] == settings["stack_name"] and is_same_region and their_profile == profile:
            found.append(
                f"{other} has the same stack: {settings['stack_name']} in {region or their_region or 'this region'}. "
                "A deploy of one file would change the stack of the other. Write another stack_name into the newer "
                "file, or delete that line: the stack is then spillway-NAME, after the file. If both files mean one "
                "stack, delete one of them. If they are for two accounts, write a profile line into each"
            )
    return found


def main() -> None:
    file, guided = Path(sys.argv[1]), sys.argv[2:] == ["--guided"]
    found = shared_stacks(file, dict(os.environ)) + ([] if guided else mistakes(file))
    if found:
        sys.exit("\n".join(f"{file}: {mistake}" for mistake in found))


if __name__ == "__main__":
    main()
