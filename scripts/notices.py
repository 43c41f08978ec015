"""Crates that are linked into the function: their licence texts (NOTICES) and a bill of materials (CycloneDX).

Their source is the output of cargo, and the crates that cargo fetched. Existing tools for this task are published as
sources only, and take minutes to build.
"""

import json
import re
import subprocess
import tomllib
from pathlib import Path

TARGETS = ("aarch64-unknown-linux-gnu", "x86_64-unknown-linux-gnu")
LICENCE_FILE = re.compile(r"(licen[cs]e|copying|notice|copyright)([-_.].*)?", re.IGNORECASE)
NOT_TEXTS = {".rs", ".c", ".h", ".py", ".go", ".pl"}
LICENCES = Path(__file__).parent / "licences"


class MissingText(Exception):
    """A crate has no licence file, and its licence has no standard text here."""


def cargo(*arguments: str) -> str:
    return subprocess.run(["cargo", *arguments], check=True, capture_output=True, text=True).stdout


def linked() -> tuple[dict, list[dict], dict]:
    """The function's package, the crates linked into it on any target, and the IDs on which each one depends."""
    names = set()
    for target in TARGETS:
        tree = cargo("tree", "--locked", "--package", "drain", "--edges", "normal,no-proc-macro",
                     "--target", target, "--prefix", "none", "--format", "{p}")
        names.update(tuple(line.split()[:2]) for line in tree.splitlines() if line)
    metadata = json.loads(cargo("metadata", "--locked", "--format-version", "1"))
    packages = [p for p in metadata["packages"] if (p["name"], f"v{p['version']}") in names]
    packages.sort(key=lambda package: (package["name"], package["version"]))
    ids = {package["id"] for package in packages}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"] if node["id"] in ids}
    needs = {
        identity: sorted(
            dependency["pkg"]
            for dependency in node["deps"]
            if dependency["pkg"] in ids and any(kind["kind"] is None for kind in dependency["dep_kinds"])
        )
        for identity, node in nodes.items()
    }
    own = next(package for package in packages if package["name"] == "drain")
    return own, [package for package in packages if package is not own], needs


def licence(package: dict) -> str:
    """SPDX expression; old manifests separate alternatives by a slash."""
    return re.sub(r"\s*/\s*", " OR ", package["license"])


def texts(package: dict) -> list[str]:
    """Licence texts of a crate: its own files, also those of C code inside; else the licence's standard text."""
    folder = Path(package["manifest_path"]).parent
    files = sorted(
        path for path in folder.rglob("*")
        if LICENCE_FILE.fullmatch(path.name) and path.suffix not in NOT_TEXTS and path.is_file()
    )
    if files:
        return [path.read_text(errors="replace").strip() for path in files]
    standard = {"Apache-2.0": Path("LICENSE"), "MIT": LICENCES / "MIT.txt"}
    for name, path in standard.items():
        if name in licence(package):
            authors = ", ".join(package["authors"]) or f"the authors of {package['name']}"
            return [path.read_text().replace("{authors}", authors).strip()]
    raise MissingText(f"crate {package['name']} {package['version']} ({licence(package)}) has no licence file: "
                      f"add the standard text to {LICENCES}, and name it in {__file__}")


def notices(own: dict, packages: list[dict]) -> str:
    """The licence texts. Each text occurs once, after the crates that it belongs to."""
    users = {}
    for package in packages:
        for text in texts(package):
            # Copies differ in their line breaks only.
            users.setdefault(" ".join(text.split()), (text, []))[1].append(package)
    # The standard library is linked, too, and is no crate of Cargo.lock.
    rust = "the Rust standard library (MIT OR Apache-2.0)"
    apache = Path("LICENSE").read_text().strip()
    parts = [f"Spillway {own['version']} is licensed under {licence(own)}. It contains the software below.",
             f"{rust}\n\n{apache}"]
    for text, crates in users.values():
        # A crate may have the same text in several folders.
        names = dict.fromkeys(f"{crate['name']} {crate['version']} ({licence(crate)})" for crate in crates)
        parts.append("\n".join(names) + "\n\n" + text)
    return f"\n\n{'=' * 80}\n\n".join(parts) + "\n"


def bill_of_materials(own: dict, packages: list[dict], needs: dict) -> dict:
    """CycloneDX 1.5. Without a time and a serial number, so that the same Cargo.lock has the same bill."""
    lock = tomllib.loads(Path("Cargo.lock").read_text())
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
    references = {p["id"]: f"pkg:cargo/{p['name']}@{p['version']}" for p in [own, *packages]}

    def component(package: dict, kind: str) -> dict:
        checksum = checksums[package["name"], package["version"]]
        return {
            "type": kind,
            "bom-ref": references[package["id"]],
            "name": package["name"],
            "version": package["version"],
            "licenses": [{"expression": licence(package)}],
            "purl": references[package["id"]],
        } | ({"hashes": [{"alg": "SHA-256", "content": checksum}]} if checksum else {})

    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(own, "application")},
        "components": [component(package, "library") for package in packages],
        "dependencies": [
            {"ref": references[identity], "dependsOn": [references[need] for need in needs[identity]]}
            for identity in sorted(needs, key=references.get)
        ],
    }
