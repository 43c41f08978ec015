#!/usr/bin/env python3
"""Check the order of modules: no module of the function imports one above it.

ARCHITECTURE.md states the order in a fenced block marked `module-order`: one group a line, from top to bottom. A
module may import the modules to its right in its own line, and every module of the lines below. A folder is one module.
Unit tests (`tests.rs`, `mod tests`) are not checked.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCE = ROOT / "functions" / "drain" / "src"


def stated_order() -> dict[str, tuple[int, int]]:
    """The place of each module: its line in the block, and its column in that line."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    block = re.search(r"```module-order\n(.*?)```", text, re.S)
    if not block:
        sys.exit("ARCHITECTURE.md has no block ```module-order")
    places = {}
    for line, group in enumerate(block[1].strip().splitlines()):
        for column, module in enumerate(group.split()):
            places[module] = (line, column)
    return places


def modules() -> dict[str, list[pathlib.Path]]:
    """The source files of each top-level module."""
    files = {}
    for path in sorted(SOURCE.rglob("*.rs")):
        parts = path.relative_to(SOURCE).parts
        if path.name == "tests.rs" or "tests" in parts[:-1] or parts[0] == "lib.rs":
            continue
        files.setdefault(parts[0].removesuffix(".rs"), []).append(path)
    return files


def imports(path: pathlib.Path) -> set[str]:
    """Top-level modules that a file names by `crate::` (in the bootstrap, `drain::`)."""
    text = re.sub(r"//.*", "", path.read_text().split("#[cfg(test)]\nmod tests {")[0])
    crate = "drain" if path.name == "main.rs" else "crate"
    named = set(re.findall(rf"\b{crate}::(\w+)", text))
    for group in re.findall(rf"\b{crate}::\{{([^;]*?)\}};", text, re.S):
        named |= set(re.findall(r"(?:^|,)\s*(\w+)", group))
    return named


def main() -> int:
    order, files = stated_order(), modules()
    wrong = [f"{module} has no place in ARCHITECTURE.md" for module in files if module not in order]
    wrong += [f"ARCHITECTURE.md names {module}, which does not exist" for module in order if module not in files]
    for module, paths in files.items():
        for path in paths:
            for other in sorted(imports(path) & set(files) - {module}):
                if module in order and other in order and order[other] <= order[module]:
                    wrong.append(f"{path.relative_to(ROOT)}: {module} imports {other}, which is above it")
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    if not wrong:
        print(f"the order of {len(files)} modules holds")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
