#!/usr/bin/env python3
"""Check the order of modules: no module of the function imports a module above it, and there is no circle.

ARCHITECTURE.md states the order of the top-level modules in a fenced block marked `module-order`: one group a line,
from top to bottom. A module may import every module of the lines below. Modules of one line do not import each other.

Inside of a folder the order is not stated. There, two modules must not import each other, directly or through others. A
module and the modules in its folder may import each other.

The crate of the fuzz targets includes modules by path. It must also include the modules that these import, and depend
on the crates that they use. No other check builds that crate.

Unit tests (`tests.rs`, `mod tests`) are not checked. Aliases of a module, globs, and names that lib.rs re-exports are
not followed.
"""

import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCE = ROOT / "functions" / "drain" / "src"
DRAIN = ROOT / "functions" / "drain"
FUZZ_LIBRARY = DRAIN / "fuzz" / "src" / "lib.rs"

USE = re.compile(r"^\s*(?:pub(?:\([^)]*\))?\s+)?use\s+([^;]+);", re.M)

# A module is the tuple of its path: ("decode", "pgoutput", "shortener").
Module = tuple[str, ...]


def stated_order(text: str) -> dict[str, int]:
    """The line of each module in the block."""
    block = re.search(r"```module-order\n(.*?)```", text, re.S)
    if not block:
        sys.exit("ARCHITECTURE.md has no block ```module-order")
    places = {}
    for line, group in enumerate(block[1].strip().splitlines()):
        places.update(dict.fromkeys(group.split(), line))
    return places


def modules(source: pathlib.Path) -> dict[Module, str]:
    """The text of each module, without comments and unit tests."""
    texts = {}
    for path in sorted(source.rglob("*.rs")):
        parts = path.relative_to(source).with_suffix("").parts
        module = parts[:-1] if parts[-1] == "mod" else parts
        if "tests" in parts or module == ("lib",):
            continue
        texts[module] = re.sub(r"//.*", "", path.read_text().split("#[cfg(test)]\nmod tests {")[0])
    return texts


def expanded(tree: str) -> list[str]:
    """The paths of a `use` tree: `a::{b, c::{d, e}}` has `a::b`, `a::c::d` and `a::c::e`."""
    head, brace, rest = tree.strip().partition("{")
    if not brace:
        return [head.split(" as ")[0].strip()]
    branches, depth, start = [], 0, 0
    inner = rest[: rest.rindex("}")] + ","
    for place, character in enumerate(inner):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            branches.append(inner[start:place])
            start = place + 1
    return [head + path for branch in branches if branch.strip() for path in expanded(branch)]


def resolved(module: Module, path: str, known: dict[Module, str]) -> Module | None:
    """The full path of what a module names; `None` if it is in another crate."""
    steps = [step.strip() for step in path.split("::")]
    if steps[0] == "crate" or (steps[0] == "drain" and module == ("main",)):
        base, steps = (), steps[1:]
    elif steps[0] in ("super", "self") or (*module, steps[0]) in known:
        base = module
    else:
        return None
    while steps and steps[0] in ("super", "self"):
        base = base[:-1] if steps[0] == "super" else base
        steps = steps[1:]
    return (*base, *steps)


def used_paths(text: str) -> list[str]:
    """The paths of all `use` items of a module."""
    return [path for tree in USE.findall(text) for path in expanded(tree)]


def reexports(known: dict[Module, str]) -> dict[Module, Module]:
    """Names that a module imports from its folder: the path by which others find each, and its own path."""
    found = {}
    for module, text in known.items():
        for path in used_paths(text):
            target = resolved(module, path, known)
            if target and target[: len(module)] == module and len(target) > len(module) + 1:
                found[*module, target[-1]] = target
    return found


def imports(module: Module, known: dict[Module, str], reexported: dict[Module, Module]) -> set[Module]:
    """The modules that a module names by `crate::`, `super::` or `self::`, or by the name of a child."""
    text = known[module]
    named = set()
    for path in used_paths(text) + re.findall(r"\b(?:crate|super|self|drain)(?:::\w+)+", text):
        target = resolved(module, path, known)
        while target and target not in known:
            target = reexported.get(target, target[:-1])
        named.add(target)
    return named - {None, (), module}


def siblings(module: Module, other: Module) -> tuple[Module, Module] | None:
    """The first ancestors of two modules that differ; `None` if one module is in the folder of the other."""
    for depth, (one, two) in enumerate(zip(module, other), 1):
        if one != two:
            return module[:depth], other[:depth]
    return None


def circles(edges: dict[Module, set[Module]]) -> list[list[Module]]:
    """A circle for each import that is part of one: the module, what it imports, and the way back."""
    found = []
    for start, targets in sorted(edges.items()):
        for first in sorted(targets):
            ways, seen = [[start, first]], {first}
            while ways:
                way = ways.pop(0)
                if way[-1] == start:
                    found.append(way)
                    break
                following = sorted(edges.get(way[-1], set()) - seen)
                seen |= set(following)
                ways += [[*way, module] for module in following]
    return found


def problems(order: dict[str, int], texts: dict[Module, str]) -> list[str]:
    """A sentence for each import against the order, for each circle, and for each module without a place."""
    top = {module[0] for module in texts}
    wrong = [f"{module} has no place in ARCHITECTURE.md" for module in sorted(top - set(order))]
    wrong += [f"ARCHITECTURE.md names {module}, which does not exist" for module in order if module not in top]
    nested, reexported = {}, reexports(texts)
    for module in texts:
        pairs = {siblings(module, other) for other in imports(module, texts, reexported)} - {None}
        for one, two in sorted(pairs):
            if len(one) > 1:
                nested.setdefault(one, set()).add(two)
            elif one[0] in order and two[0] in order and order[two[0]] <= order[one[0]]:
                wrong.append(f"{'/'.join(module)}: {one[0]} imports {two[0]}, which is not below it")
    for circle in circles(nested):
        wrong.append("a circle: " + " imports ".join("::".join(module) for module in circle))
    return wrong


def missing_of_fuzz(library: str, texts: dict[Module, str]) -> list[str]:
    """A sentence for each module that the fuzz library lacks, and that one of its modules imports."""
    included = set(re.findall(r"^    (?:pub )?mod (\w+);", library, re.M))
    reexported = reexports(texts)
    pure = [module for module in texts if module[0] in included]
    needed = {other[0] for module in pure for other in imports(module, texts, reexported)}
    return [f"fuzz/src/lib.rs lacks {module}, which its modules import" for module in sorted(needed - included)]


def crates(manifest: str) -> set[str]:
    """The names by which code uses the dependencies of a manifest."""
    names = {"md-5": "md5"}
    return {names.get(crate, crate.replace("-", "_")) for crate in tomllib.loads(manifest)["dependencies"]}


def missing_crates_of_fuzz(library: str, texts: dict[Module, str], of_drain: set[str], of_fuzz: set[str]) -> list[str]:
    """A sentence for each crate that the fuzz library does not depend on, and that one of its modules uses."""
    included = set(re.findall(r"^    (?:pub )?mod (\w+);", library, re.M))
    used = {name for module, text in texts.items() if module[0] in included for name in re.findall(r"\b(\w+)::", text)}
    return [f"fuzz/Cargo.toml lacks {name}, which its modules use" for name in sorted(used & of_drain - of_fuzz)]


def main() -> int:
    texts = modules(SOURCE)
    wrong = problems(stated_order((ROOT / "ARCHITECTURE.md").read_text()), texts)
    wrong += missing_of_fuzz(FUZZ_LIBRARY.read_text(), texts)
    of_drain, of_fuzz = (crates((folder / "Cargo.toml").read_text()) for folder in (DRAIN, DRAIN / "fuzz"))
    wrong += missing_crates_of_fuzz(FUZZ_LIBRARY.read_text(), texts, of_drain, of_fuzz)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    if not wrong:
        print(f"the order of {len(texts)} modules holds, and no folder has a circle")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
