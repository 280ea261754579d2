"""Every test has a home, a spool and an environment of its own."""

import os

import pytest

from stepclock import process, settings


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("STEPCLOCK_", "SLURM_", "TORCHELASTIC_", "XDG_", "POD_")):
            monkeypatch.delenv(name)
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(settings, "_told", set())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STEPCLOCK_SPOOL_DIR", str(tmp_path / "spool"))


@pytest.fixture(autouse=True)
def no_run_is_left():
    yield
    for run in process.active_runs():
        run.finish(timeout=0)
