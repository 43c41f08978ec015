#!/usr/bin/env python3
"""Check the rules of Rust and SQL files that rustfmt and clippy do not check, and print the counts.

- A file has at most 500 lines, and a line at most 110 columns, unless it has a raw string.
- A function has at most 60 lines, unless it is a table: TABLES names those.
- The function has each type name once, and so have the tests.
- A doc comment begins with at most twelve words, up to its first full stop or colon.
- A line of SQL has at most 110 columns.

The code is expected in rustfmt's form: the closing brace of a function has the indentation of its `fn`. Block comments,
doc attributes and comments behind code are not checked.
"""

import collections
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_COLUMNS = 110
MAX_WORDS = 12

# Code whose type names must differ from each other.
NAMESPACES = ("functions/drain/src", "tests")

# Functions that are one list of cases or of columns. Parts of a list are not easier to read.
TABLES = {
    "functions/drain/fuzz/src/checks/envelopes.rs": {"new"},
    "functions/drain/fuzz/src/checks/mod.rs": {"catalog"},
    "functions/drain/src/config/tests.rs": {"an_error_names_the_variable"},
    "functions/drain/src/continuity/tests.rs": {"each_break_of_continuity_is_its_own_error"},
    "functions/drain/src/encode/debezium/value/tests.rs": {
        "each_type_is_written_in_its_json_form",
        "a_time_is_a_number_in_the_unit_of_its_mode_or_stays_text",
    },
    "functions/drain/src/encode/tests/schemas.rs": {"each_type_has_the_schema_of_its_mode"},
    "functions/drain/src/encode/tests/values.rs": {"each_type_has_its_json_in_dms_and_in_wal2json"},
    "functions/drain/src/invocation/backfill.rs": {"other_events_are_refused_with_the_known_fields"},
}

FUNCTION = re.compile(r"(\s*)(?:pub(?:\([^)]*\))? )?(?:const )?(?:async )?(?:unsafe )?(?:extern \"C\" )?fn (\w+)")
# An alias counts at the margin only: associated types repeat names.
TYPE = re.compile(
    r"(?:\s*(?:pub(?:\([^)]*\))? )?(?:unsafe )?(?:struct|enum|union|trait)|(?:pub(?:\([^)]*\))? )?type) ([A-Z]\w*)"
)
RAW_STRING = re.compile(r"(?<!\w)b?r#*\"")
DOC = re.compile(r"\s*(//[/!])(?!/) ?(.*)")


def functions(lines: list[str]) -> list[tuple[int, str, int]]:
    """The functions of a file: index of the first line, name and number of lines."""
    found = []
    for start, line in enumerate(lines):
        if not (match := FUNCTION.match(line)):
            continue
        for end in range(start, len(lines)):
            # A declaration without a body ends with a semicolon, and a body with its brace.
            if lines[end].endswith(";") and (end == start or lines[end].startswith(match[1] + ")")):
                break
            is_empty = lines[end].endswith("{}") and lines[end].startswith(match[1] + ")")
            if lines[end] == match[1] + "}" or is_empty or (end == start and line.endswith("}")):
                found.append((start, match[2], end - start + 1))
                break
    return found


def first_sentences(lines: list[str]) -> list[tuple[int, str]]:
    """The first sentence of each doc comment, with the index of its line."""
    found, at = [], 0
    while at < len(lines):
        match = DOC.match(lines[at])
        if not match:
            at += 1
            continue
        start, mark, paragraph, is_first = at, match[1], [], True
        while at < len(lines) and (match := DOC.match(lines[at])) and match[1] == mark:
            is_first = is_first and bool(match[2].strip())
            if is_first:
                paragraph.append(match[2].strip())
            at += 1
        found.append((start, re.split(r"(?<=[.:!?])\s", " ".join(paragraph))[0]))
    return found


def wide_lines(path: str, text: str) -> list[str]:
    """A sentence for each line that is too wide. A line of Rust may be wider if it has a raw string."""
    is_rust = path.endswith(".rs")
    return [f"{path}:{number}: the line exceeds {MAX_COLUMNS} columns" for number, line in
            enumerate(text.splitlines(), 1)
            if len(line) > MAX_COLUMNS and not (is_rust and RAW_STRING.search(line))]


def problems(path: str, text: str) -> list[str]:
    """A sentence for each place where a file breaks a rule."""
    lines = text.splitlines()
    wrong = []
    if len(lines) > MAX_FILE_LINES:
        wrong.append(f"{path}: {len(lines)} lines are more than {MAX_FILE_LINES}")
    for start, name, count in functions(lines):
        if count > MAX_FUNCTION_LINES and name not in TABLES.get(path, ()):
            wrong.append(f"{path}:{start + 1}: {name} has {count} lines, which are more than {MAX_FUNCTION_LINES}")
    for start, sentence in first_sentences(lines):
        if len(sentence.split()) > MAX_WORDS:
            wrong.append(f"{path}:{start + 1}: the comment begins with more than {MAX_WORDS} words: {sentence}")
    return wrong + wide_lines(path, text)


def repeated_types(texts: dict[str, str]) -> list[str]:
    """A sentence for each type name that files define more than once."""
    places = collections.defaultdict(list)
    for path, text in texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            if match := TYPE.match(line):
                places[match[1]].append(f"{path}:{number}")
    return [f"the type name {name} exists more than once: {', '.join(at)}" for name, at in sorted(places.items())
            if len(at) > 1]


def read(folders: tuple[str, ...], ending: str) -> dict[str, str]:
    """The texts of the files with this ending, by path."""
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*" + ending))
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted(paths) if "target" not in path.parts}


def main() -> int:
    texts = read(("functions/drain", "tests"), ".rs")
    sql = read(("functions/drain", "tests", "examples"), ".sql")
    wrong = [sentence for path, text in texts.items() for sentence in problems(path, text)]
    wrong += [sentence for path, text in sql.items() for sentence in wide_lines(path, text)]
    for namespace in NAMESPACES:
        inside = {path: text for path, text in texts.items() if path.startswith(namespace + "/")}
        wrong += repeated_types(inside)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    counts = [count for text in texts.values() for _, _, count in functions(text.splitlines())]
    comments = sum(len(first_sentences(text.splitlines())) for text in texts.values())
    print(f"{len(texts)} files, {len(sql)} SQL files, {len(counts)} functions and {comments} doc comments: "
          f"{len(wrong)} problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
