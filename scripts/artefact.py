"""Check that provided.al2023 on arm64 can start a Lambda artefact, and print its size."""

import gzip
import re
import sys

AARCH64 = 183  # e_machine, ELF specification
NEWEST = (2, 34)  # glibc of Amazon Linux 2023

path = sys.argv[1]
with open(path, "rb") as file:
    binary = file.read()
if binary[:4] != b"\x7fELF" or int.from_bytes(binary[18:20], "little") != AARCH64:
    sys.exit(f"{path} is not an ELF binary for arm64")
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
