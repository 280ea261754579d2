"""A load in a process of its own: its plan goes in as JSON, what came of it comes out so."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from native.process import StartFailed, log_tail, spawn


def run_load(folder: Path, module: str, plan: Any, *, within_s: float) -> dict[str, Any]:
    """Run ``python -m MODULE PLAN OUTCOME`` to its end; the fields of the outcome.

    plan: a dataclass. Raises StartFailed with its log if it fails.
    """
    plan_path, outcome_path = folder / f"{module}.plan.json", folder / f"{module}.outcome.json"
    log_path = folder / f"{module}.log"
    plan_path.write_text(json.dumps(asdict(plan)), "utf-8")
    child = spawn(
        [sys.executable, "-m", module, str(plan_path), str(outcome_path)], log_path=log_path
    )
    try:
        status = child.wait(within_s)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if status != 0:
        raise StartFailed(f"the load failed; {log_path}:\n{log_tail(log_path)}")
    outcome: dict[str, Any] = json.loads(outcome_path.read_text("utf-8"))
    return outcome
