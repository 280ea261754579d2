"""Our log lines: by which loggers they come."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = [
    *(folder for folder in ROOT.iterdir() if (folder / "__init__.py").exists()),
    ROOT / "client/stepclock",
]
OURS = [each for each in PACKAGES if each.name not in {"bench", "tests"}]


def names_of_loggers(source: str) -> list[str]:
    """What `getLogger` is given where the logger is kept; a constant by its value."""
    body = ast.parse(source).body
    constants = {
        target.id: each.value.value
        for each in body
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant)
        for target in each.targets
        if isinstance(target, ast.Name)
    }
    names = []
    for each in body:
        match each:
            case ast.Assign(value=ast.Call(func=ast.Attribute(attr="getLogger"), args=[name])):
                text = ast.unparse(name)
                names.append(str(constants.get(text, getattr(name, "value", text))))
    return names


@pytest.mark.parametrize("package", OURS, ids=lambda path: path.name)
def test_all_our_loggers_are_below_stepclock_so_that_one_filter_finds_them(package):
    strangers = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in package.rglob("*.py")
        for name in names_of_loggers(path.read_text("utf-8"))
        if name.split(".")[0] != "stepclock"
    }
    assert strangers == set()


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ('_log = logging.getLogger("stepclock.kafka")', ["stepclock.kafka"]),
        ('NAME = "stepclock.audit"\n_log = logging.getLogger(NAME)', ["stepclock.audit"]),
        ("_log = logging.getLogger(__name__)", ["__name__"]),
    ],
)
def test_the_name_of_a_logger_is_read_from_the_source(line, names):
    assert names_of_loggers(f"import logging\n{line}\n") == names


TESTS = """
import logging, sys
import pytest

def test_leaves_a_handler():
    logging.root.addHandler(logging.StreamHandler(sys.stderr))

def test_leaves_a_level():
    logging.root.setLevel("DEBUG")

@pytest.mark.usefixtures("own_logging")
def test_puts_it_back():
    logging.root.handlers[:] = [logging.StreamHandler(sys.stderr)]
    logging.root.setLevel("DEBUG")
"""


def test_a_test_that_leaves_logging_set_up_fails(tmp_path):
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "test_three.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "3 passed, 2 errors" in done.stdout
    assert "test_puts_it_back" not in done.stdout
