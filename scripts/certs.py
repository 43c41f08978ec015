"""Replace the certificate authorities that the function contains by those of a checked bundle.

`make certs BUNDLE=global-bundle.pem`. The bundle is a PEM file, such as the one that AWS publishes for Amazon RDS.
Each certificate must be that of an authority. Expired certificates are left out. If a check fails, nothing is replaced.
"""

import datetime
import pathlib
import re
import sys

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDED = ROOT / "functions" / "drain" / "certs" / "rds-global-bundle.pem"
README = ROOT / "functions" / "drain" / "certs" / "README.md"
TEMPLATE = ROOT / "template.yaml"
HEAD = (
    "# Certificate authorities of Amazon RDS. "
    "Sources and missing authorities: README.md in this folder.\n"
)


def common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()


def region(name: str) -> str | None:
    """The region in the name of an authority of RDS: `Amazon RDS eu-central-1 Root CA RSA2048 G1`."""
    found = re.search(r"\b[a-z]{2}(?:-[a-z]+)+-[0-9]+\b", name)
    return found[0] if found else None


def is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def read(path: str) -> list[x509.Certificate]:
    """The authorities of a bundle that have not expired, in the order of their names."""
    try:
        certificates = x509.load_pem_x509_certificates(pathlib.Path(path).read_bytes())
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: {error}")
    others = [common_name(it) for it in certificates if not is_authority(it)]
    if others:
        sys.exit(f"{path}: not a certificate authority: {', '.join(others)}")
    now = datetime.datetime.now(datetime.timezone.utc)
    for expired in (it for it in certificates if it.not_valid_after_utc <= now):
        print(f"left out, expired on {expired.not_valid_after_utc:%F}: {common_name(expired)}")
    kept = [it for it in certificates if it.not_valid_after_utc > now]
    if not kept:
        sys.exit(f"{path}: no certificate is left")
    return sorted(kept, key=common_name)


def replaced(path: pathlib.Path, pattern: str, text: str) -> str:
    """The file's text with `text` in place of the second group of `pattern`."""
    changed, count = re.subn(pattern, lambda found: found[1] + text + found[3], path.read_text(), flags=re.S)
    if count != 1:
        sys.exit(f"{path} has no list of regions that can be replaced")
    return changed


def main() -> int:
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit("BUNDLE is missing: make certs BUNDLE=global-bundle.pem")
    certificates = read(sys.argv[1])
    blocks = [HEAD]
    for it in certificates:
        title = f"\n# {common_name(it)}, until {it.not_valid_after_utc:%F}\n"
        blocks.append(title + it.public_bytes(Encoding.PEM).decode())
    regions = sorted({found for it in certificates if (found := region(common_name(it)))})
    lines = "".join(f"{'- ' if at == 0 else '              - '}{name}\n" for at, name in enumerate(regions))
    # Without a region the rule of the template would not be valid.
    if not regions:
        sys.exit(f"{sys.argv[1]}: no authority names a region of RDS")
    listed = r"(`make certs` writes this list\.\n            - )(.*?)(            - !Ref AWS::Region)"
    template = replaced(TEMPLATE, listed, lines)
    readme = replaced(README, r"(- \*\*Regions present:\*\* )(.*?)(\.\n- \*\*)", wrapped(regions))
    INCLUDED.write_text("".join(blocks))
    TEMPLATE.write_text(template)
    README.write_text(readme)
    first = min(certificates, key=lambda it: it.not_valid_after_utc)
    print(f"{len(certificates)} authorities, the first expires on {first.not_valid_after_utc:%F}: {common_name(first)}")
    print(f"{len(regions)} regions: {', '.join(regions)}")
    for name in (common_name(it) for it in certificates):
        if region(name) is None:
            print(f"without a region: {name}")
    print("functions/drain/certs and the rule of template.yaml are replaced. Correct the counts in its README.md.")
    return 0


def wrapped(regions: list[str]) -> str:
    """The regions as lines of the README, each of at most 120 columns."""
    lines = ["- **Regions present:**"]
    for at, name in enumerate(regions):
        word = name + ("," if at + 1 < len(regions) else "")
        if len(lines[-1]) + 1 + len(word) > 119:
            lines.append(" ")
        lines[-1] += " " + word
    return "\n".join(lines).removeprefix("- **Regions present:** ")


if __name__ == "__main__":
    sys.exit(main())
