"""Rules of the house that no linter knows: plain docstrings, small folders, readable Markdown.

Usage: python .ci/check_text.py [FOLDER]. Prints each violation as `file:line: rule` and exits
with 1 if there is any.
"""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

MOST_FILES = 16
MOST_LINES = 400
MOST_COLUMNS = 120
MOST_README_WORDS = 700
ALIASES = "envs/arrays.py"
OPENINGS = ("What ", "Of ", "Whether ", "Where ", "Who ", "How ")
ONLY_REFERS = re.compile(r"See `[^`]*`(, [^.]{0,20})?\.?")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^\s*(```|~~~)")


def main(folder: Path) -> int:
    """Check the files that Git tracks in `folder`; print what is wrong."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md"], cwd=folder, capture_output=True, text=True, check=True
    )
    names = listed.stdout.split()
    violations = [*crowded(names)]
    for name in names:
        text = (folder / name).read_text(encoding="utf-8")
        if (lines := text.count("\n")) > MOST_LINES:
            violations.append(f"{name}:{lines}: over {MOST_LINES} lines; split it")
        violations += python(name, text) if name.endswith(".py") else markdown(folder, name, text)
    print("\n".join(violations), end="\n" if violations else "")
    return 1 if violations else 0


def crowded(names: list[str]) -> Iterator[str]:
    """Folders with too many Python files side by side."""
    counts = Counter(str(Path(name).parent) for name in names if name.endswith(".py"))
    for folder, count in counts.items():
        if count > MOST_FILES:
            yield f"{folder}:1: {count} Python files side by side; {MOST_FILES} at most"


def python(name: str, text: str) -> Iterator[str]:
    """Docstrings that do not say what a thing does, and array aliases of a file's own."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and (docstring := ast.get_docstring(node)):
            line = getattr(node, "lineno", 1)
            if docstring.startswith(OPENINGS):
                yield f"{name}:{line}: the docstring opens with a question word; name the thing"
            if ONLY_REFERS.fullmatch(docstring.strip()):
                yield f"{name}:{line}: the docstring only refers elsewhere; say what it does"
    if name != ALIASES and not name.startswith((".ci/", "tests/")) and "NDArray[" in text:
        line = text[: text.index("NDArray[")].count("\n") + 1
        yield f"{name}:{line}: an array type is spelled out; import its alias from {ALIASES}"


def markdown(folder: Path, name: str, text: str) -> Iterator[str]:
    """Long lines of prose, links that lead nowhere, and a README that nobody finishes."""
    if name == "README.md" and (words := len(text.split())) > MOST_README_WORDS:
        yield f"{name}:1: {words} words; {MOST_README_WORDS} at most"
    for number, line in prose(text):
        shown = LINK.sub("", line)
        if len(shown) > MOST_COLUMNS and not line.lstrip().startswith("|"):
            yield f"{name}:{number}: {len(shown)} columns; {MOST_COLUMNS} at most"
        for target in LINK.findall(line):
            path = target.partition("#")[0]
            if re.match(r"[a-z]+:", target) or not path:
                continue
            if not (folder / Path(name).parent / path).exists():
                yield f"{name}:{number}: the link to {target} leads nowhere"


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of Markdown outside fenced code."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            yield number, line


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
