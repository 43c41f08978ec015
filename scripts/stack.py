"""Settings of a stack, as SAM's configuration file deploy/NAME.toml holds them.

stack.py FILE prints the name of the stack.
"""

import sys
import tomllib
from pathlib import Path


def stack_settings(file: Path) -> dict:
    """The settings of `sam deploy` in the file; empty if it does not exist.

    A file without a `stack_name` has the stack spillway-NAME, so that a copied file cannot change another stack.
    """
    if not file.exists():
        return {}
    try:
        default = tomllib.loads(file.read_text()).get("default", {})
    except tomllib.TOMLDecodeError as error:
        sys.exit(f'{file}: {error}. A line has the form NAME = "value", with the quotes')
    merged = {"stack_name": f"spillway-{file.stem}"}
    for command in ("global", "deploy"):
        merged.update(default.get(command, {}).get("parameters", {}))
    return merged


if __name__ == "__main__":
    print(stack_settings(Path(sys.argv[1]))["stack_name"])
