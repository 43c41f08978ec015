"""Check that provided.al2023 can start a Lambda artefact on an architecture, and print its size.

artefact.py PATH ARCHITECTURE, where ARCHITECTURE is Lambda's name: arm64 or x86_64.
"""

import gzip
import re
import sys

MACHINES = {183: "arm64", 62: "x86_64"}  # e_machine, ELF specification
NEWEST = (2, 34)  # glibc of Amazon Linux 2023


def architecture(binary: bytes) -> str | None:
    """Lambda's name of the architecture that an ELF binary is for; None if it is for no architecture of Lambda."""
    if binary[:4] != b"\x7fELF":
        return None
    return MACHINES.get(int.from_bytes(binary[18:20], "little"))


def main() -> None:
    path, wanted = sys.argv[1:]
    with open(path, "rb") as file:
        binary = file.read()
    if architecture(binary) != wanted:
        sys.exit(f"{path} is not an ELF binary for {wanted}")
    # Stripped or not, .dynstr has the version names as text.
    names = re.findall(rb"\0GLIBC_([0-9]+(?:\.[0-9]+)+)(?=\0)", binary)
    versions = [tuple(map(int, name.split(b"."))) for name in names]
    if not versions:
        sys.exit(f"{path} names no glibc version: it is not linked as expected")
    highest = ".".join(map(str, max(versions)))
    if max(versions) > NEWEST:
        sys.exit(f"{path} needs GLIBC_{highest}, provided.al2023 has {'.'.join(map(str, NEWEST))}")
    size, packed = len(binary) / 1e6, len(gzip.compress(binary)) / 1e6
    print(f"{path}: {size:.1f} MB ({packed:.1f} MB gzipped), needs GLIBC_{highest}")


if __name__ == "__main__":
    main()
