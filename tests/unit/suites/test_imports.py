"""What an import of our modules does: nothing outside the process."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

PRODUCT = [
    *("adapters", "admin", "consumers", "demo", "embedded", "grafana", "ingest", "janitor"),
    *("native", "schemas", "stepclock", "telemetry"),
]

# Prints a line for each read of a file, a folder or the environment that a line of a module of
# ours causes while it is imported; what Python itself reads to import is not ours.
WATCH = """
import importlib, os, pkgutil, sys

ours = sys.argv[1:]

def note(what):
    frame = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        if frame.f_code.co_name == "<module>":
            name = frame.f_globals["__name__"]
            if name.split(".")[0] in ours:
                print(f"{name} line {frame.f_lineno} reads {what}")
            return
        frame = frame.f_back

def audited(event, arguments):
    if event in {"open", "os.listdir", "os.scandir"}:
        note(arguments[0])

class Environment(type(os.environ)):
    def __getitem__(self, name):
        if name != "PYDANTIC_DISABLE_PLUGINS":  # asked by pydantic for each model
            note(f"variable {name}")
        return super().__getitem__(name)

os.environ.__class__ = Environment
sys.addaudithook(audited)
for package in ours:
    path = importlib.import_module(package).__path__
    for module in pkgutil.walk_packages(path, f"{package}."):
        if module.name == "native.child":  # a script, run by its path
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as exc:  # a framework that a module is for
            if exc.name.split(".")[0] in ours:
                raise
"""


def reads(folder, *packages):
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *packages],
        check=False,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'client'}:{folder}"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_no_module_reads_the_environment_or_the_disk_when_it_is_imported(tmp_path):
    assert reads(tmp_path, *PRODUCT) == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import os; HOME = os.environ.get('HOME')", "variable HOME"),
        ("from pathlib import Path; TEXT = Path(__file__).read_text()", "__init__.py"),
        ("import importlib.metadata as m; V = m.version('typer')", "METADATA"),
    ],
)
def test_a_read_at_import_is_found_with_its_module_and_line(tmp_path, line, what):
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange/__init__.py").write_text(f'"""Strange."""\n{line}\n')
    found = reads(tmp_path, "strange")
    assert found
    assert {one.split(" reads ")[0] for one in found} == {"strange line 2"}
    assert any(what in one for one in found)
