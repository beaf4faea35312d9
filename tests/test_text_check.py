"""The check of docstrings, folders and Markdown finds each kind of violation."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[1] / ".ci" / "check_text.py"
CLEAN = {"README.md": "# A project\n", "a.py": '"""Add numbers."""\n'}
WRONG = {
    "opens with a question word": {"a.py": '"""What adds numbers."""\n'},
    "only refers elsewhere": {"a.py": 'def add():\n    """See `Adder`."""\n'},
    "array type is spelled out": {"a.py": "Floats = NDArray[np.float64]\n"},
    "17 Python files side by side": {f"room/m{n}.py": "" for n in range(17)},
    "over 400 lines": {"a.py": "x = 1\n" * 401},
    "702 words": {"README.md": "two words\n" * 351},
    "121 columns": {"docs/a.md": "x" * 121 + "\n"},
    "leads nowhere": {"docs/a.md": "[a page](missing.md)\n"},
}


def check(folder, files):
    for name, text in {**CLEAN, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run(["git", "add", "."], cwd=folder, check=True)
    return subprocess.run([sys.executable, CHECK, folder], capture_output=True, text=True)


@pytest.mark.parametrize("rule", WRONG)
def test_a_violation_is_named(tmp_path, rule):
    done = check(tmp_path, WRONG[rule])
    assert done.returncode == 1
    assert rule in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_tables_code_and_links_may_be_long(tmp_path):
    long = "x" * 200
    table, code = f"| {long} |\n", f"```\n{long}\n```\n"
    link = f"[a page](https://example.org/{long}) and [another](../README.md#top)\n"
    done = check(tmp_path, {"docs/a.md": table + code + link})
    assert (done.returncode, done.stdout) == (0, "")
