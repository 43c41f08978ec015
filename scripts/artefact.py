"""Refuses a Lambda artefact that provided.al2023 on arm64 could not start; prints its size otherwise."""

import gzip
import re
import sys

AARCH64 = 183  # e_machine, ELF specification
NEWEST = (2, 34)  # glibc of Amazon Linux 2023

path = sys.argv[1]
with open(path, "rb") as file:
    binary = file.read()
if binary[:4] != b"\x7fELF" or int.from_bytes(binary[18:20], "little") != AARCH64:
    sys.exit(f"{path} is no ELF binary for arm64")
# The version names stand in .dynstr as text, stripped or not.
versions = [tuple(map(int, found.split(b"."))) for found in re.findall(rb"\0GLIBC_([0-9]+(?:\.[0-9]+)+)(?=\0)", binary)]
if not versions:
    sys.exit(f"{path} names no version of glibc: not linked as expected")
highest = ".".join(map(str, max(versions)))
if max(versions) > NEWEST:
    sys.exit(f"{path} needs GLIBC_{highest}, provided.al2023 has {'.'.join(map(str, NEWEST))}")
size, packed = len(binary) / 1e6, len(gzip.compress(binary)) / 1e6
print(f"{path}: {size:.1f} MB ({packed:.1f} MB gzipped), needs GLIBC_{highest}")
