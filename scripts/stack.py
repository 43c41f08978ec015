"""Settings of a stack, as SAM's configuration file deploy/NAME.toml holds them."""

import tomllib
from pathlib import Path


def stack_settings(file: Path) -> dict:
    """The settings of `sam deploy` in the file; none if it does not exist."""
    if not file.exists():
        return {}
    default = tomllib.loads(file.read_text()).get("default", {})
    merged = {}
    for command in ("global", "deploy"):
        merged.update(default.get(command, {}).get("parameters", {}))
    return merged
