"""Write a copy of template.yaml that deploys the function of a zip, without `sam build`.

zip_template.py ZIP OUTPUT. The architecture is that of the zip's `bootstrap`. Paths of other code become absolute,
since OUTPUT may be in another folder.
"""

import json
import re
import sys
import zipfile
from pathlib import Path

from artefact import architecture

# Lines of template.yaml: the first is removed, the others are replaced. Each occurs once.
BUILD = "      BuildMethod: rust-cargolambda\n"
CODE = "      CodeUri: functions/drain\n"
ARCHITECTURE = "      Architectures: [arm64]\n"


def zip_architecture(path: Path) -> str:
    """Lambda's name of the zip's architecture. Exits if the zip contains no function for Lambda."""
    if not path.is_file():
        sys.exit(f"ZIP: there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo("bootstrap")
            found = architecture(archive.read(entry))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        sys.exit(f"{path} is no zip with the file bootstrap at its root: {error}")
    if not entry.external_attr >> 16 & 0o111:
        sys.exit(f"{path}: bootstrap is not executable, so Lambda could not start it")
    if not found:
        sys.exit(f"{path}: bootstrap is not an ELF binary for arm64 or x86_64")
    return found


def replaced(template: str, old: str, new: str) -> str:
    if template.count(old) != 1:
        sys.exit(f"template.yaml has {old.strip()!r} {template.count(old)} times, expected once: adapt {__file__}")
    return template.replace(old, new)


def main() -> None:
    archive, output = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    project = Path(__file__).resolve().parent.parent
    found = zip_architecture(archive)
    template = (project / "template.yaml").read_text()
    template = replaced(template, BUILD, "")
    template = replaced(template, CODE, f"      CodeUri: {json.dumps(str(archive))}\n")
    template = replaced(template, ARCHITECTURE, f"      Architectures: [{found}]\n")
    template = re.sub(r'(?m)^( +CodeUri: )(?![/"])(\S+)$', lambda match: f"{match[1]}{project / match[2]}", template)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(template)
    print(f"{output}: {archive.name}, {found}")


if __name__ == "__main__":
    main()
