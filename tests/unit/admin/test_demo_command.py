from __future__ import annotations

import importlib.util

import pytest
import typer
from typer.testing import CliRunner

from admin.demo import demo_command


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(demo_command)
    return app


def test_kafka_without_influx_is_a_usage_error_that_says_so(app) -> None:
    result = CliRunner().invoke(app, ["--kafka", "127.0.0.1:9092"])
    assert result.exit_code == 2
    assert "--kafka and --influx go together" in result.stderr


def test_a_folder_that_is_not_empty_is_refused_because_old_rows_would_count(app, tmp_path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["--keep", str(tmp_path)])
    assert result.exit_code == 2
    assert "new or empty" in result.stderr


@pytest.mark.parametrize("module", ["plotext", "stepclock"])
def test_without_what_it_needs_the_demo_says_how_to_install_it(app, monkeypatch, module) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else find(name)
    )
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    assert f"needs {module}" in result.stderr
    assert "'.[demo]' -e ./client" in result.stderr
