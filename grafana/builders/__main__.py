"""Writes every dashboard to grafana/dashboards/."""

from __future__ import annotations

from pathlib import Path

from grafana.builders import DASHBOARDS
from grafana.builders.dashboard import text

_FOLDER = Path(__file__).parents[1] / "dashboards"


def main() -> None:
    """Write them all; files that no builder makes are left alone."""
    _FOLDER.mkdir(exist_ok=True)
    for name, build in DASHBOARDS.items():
        (_FOLDER / name).write_text(text(build()), "utf-8")


if __name__ == "__main__":
    main()
