from __future__ import annotations

import io
import math

import pytest
from rich.console import Console
from stepclock import Receipt

from demo.chart import loss_chart
from demo.display import Display
from demo.gateway import RunCurve
from demo.ledger import logged_cells
from demo.plan import GUEST_POINTS_PER_S, Plan, make_plan
from demo.progress import TrainerProgress
from demo.progress import read as read_progress
from demo.report import figures, receipts_table, runs_table
from demo.rows import LoggedRow

PLAN = make_plan("digits", steps=1000, steps_per_s=250.0)
STATES = {run.name: TrainerProgress(steps=10, acknowledged=12, done=True) for run in PLAN.runs}
GUEST_RUN = PLAN.runs[-1]
RECEIPT = Receipt("lr-8", logged=3, lines=9, stored=9)


def printed(renderable: object) -> str:
    file = io.StringIO()
    Console(file=file, width=110).print(renderable)
    return file.getvalue()


def stored(run: str, metrics: list[dict[str, float]]):
    return logged_cells(LoggedRow(run, 0, step, m) for step, m in enumerate(metrics))


def test_the_guest_wants_to_send_more_than_its_limit() -> None:
    assert GUEST_RUN.tenant.rate == GUEST_POINTS_PER_S < GUEST_RUN.steps_per_s
    assert GUEST_RUN.hyperparameters.steps > GUEST_POINTS_PER_S


def test_runs_have_names_and_seeds_of_their_own_and_one_diverges() -> None:
    names = {run.name for run in PLAN.runs}
    assert len(names) == len({run.hyperparameters.seed for run in PLAN.runs}) == len(PLAN.runs)
    assert "lr-8" in names


def test_the_table_tells_best_and_last_values_and_nonfinite_events() -> None:
    cells = stored(
        "lr-8",
        [
            {"train/loss": 2.5, "val/accuracy": 0.125},
            {"train/loss": 1.5, "val/accuracy": 0.875},
            {"train/loss": math.inf, "val/accuracy": 0.25},
            {"train/loss": math.nan, "grad_norm": math.nan},
        ],
    )
    (line,) = [
        line for line in printed(runs_table(PLAN, cells, STATES)).splitlines() if "lr-8" in line
    ]
    assert [cell.strip() for cell in line.strip("│").split("│")] == [
        "lr-8", "demo", "4", "1.5000", "nan", "0.8750", "0.2500", "3", "",
    ]  # fmt: skip


def test_a_run_of_which_nothing_is_stored_is_in_the_table_all_the_same() -> None:
    text = printed(runs_table(PLAN, logged_cells([]), STATES))
    assert all(run.name in text for run in PLAN.runs)


def test_figures_tell_throughput_and_what_the_rate_limit_did() -> None:
    states = {**STATES, GUEST_RUN.name: TrainerProgress(steps=90, limited=4)}
    cells = stored("lr-0.1", [{"train/loss": 1.0}] * 10)
    text = printed(figures(PLAN, cells, states, took_s=2.0, latencies="p50 10 to 25 ms"))
    assert "65 steps/s, 10 values/s over 2.0 s" in text
    assert "p50 10 to 25 ms" in text
    assert f"{GUEST_RUN.name} was told to wait 4 times" in text
    assert "trouble" not in text


def test_figures_tell_what_last_went_wrong_on_the_way() -> None:
    states = {
        **STATES,
        GUEST_RUN.name: TrainerProgress(steps=90, last_error="503: the log is away"),
    }
    text = printed(figures(PLAN, stored("lr-0.1", []), states, took_s=2.0, latencies=""))
    assert f"{GUEST_RUN.name}: 503: the log is away" in text


def test_a_receipt_tells_how_many_lines_are_stored_and_where_the_others_are() -> None:
    receipt = Receipt("lr-0.1", logged=1000, lines=1015, stored=1010, unsent=4, unsettled=1)
    states = {**STATES, "lr-0.1": TrainerProgress(receipt=receipt)}
    lines = printed(receipts_table(PLAN, states)).splitlines()
    (line,) = [line for line in lines if "lr-0.1" in line]
    assert [cell.strip() for cell in line.strip("│").split("│")] == [
        "lr-0.1", "1,000", "1,015", "1,010", "4 unsent, 1 unsettled",
    ]  # fmt: skip
    (line,) = [line for line in lines if "lr-0.5" in line]
    assert "it gave no receipt" in line


def test_curves_are_drawn_with_their_names_and_a_logarithmic_scale() -> None:
    steps = tuple(range(0, 1000, 10))
    curves = [
        RunCurve("falls", steps, tuple(2.0 / (1 + step) for step in steps)),
        RunCurve("diverges", steps, tuple(2.0 * 1.01**step for step in steps)),
    ]
    text = printed(loss_chart(curves, width=90, colour=False))
    assert "falls" in text
    assert "diverges" in text
    for tick in ("1┤", "0.1┤", "0.01┤"):
        assert tick in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 90


def test_without_a_curve_the_chart_says_so() -> None:
    assert "no curves" in loss_chart([RunCurve("r", (0,), (1.0,))], width=80, colour=False).plain


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


def show(plan: Plan, console: Console, clock: list[float], times: list[float]) -> None:
    with Display(plan, console, now=lambda: clock[0]) as display:
        display.note("something happened")
        for at in times:
            clock[0] = at
            display.show(STATES)


def test_off_a_terminal_progress_is_a_line_each_two_seconds(clock) -> None:
    file = io.StringIO()
    show(PLAN, Console(file=file, width=120), clock, [0.5, 1.0, 2.0, 2.5, 3.0, 4.5])
    lines = file.getvalue().splitlines()
    assert lines[0] == "  0.0 s  something happened"
    assert [line.split(" s ")[0].strip() for line in lines[1:]] == ["2.0", "4.5"]
    assert "trained 50 of" in lines[1]


def test_on_a_terminal_a_table_shows_every_run_and_what_happened(clock) -> None:
    file = io.StringIO()
    console = Console(file=file, width=140, force_terminal=True)
    show(PLAN, console, clock, [0.5, 1.0])
    for run in PLAN.runs:
        assert run.name in file.getvalue()
    assert "something happened" in file.getvalue()


def test_progress_comes_back_from_its_file_nan_included(tmp_path) -> None:
    path = tmp_path / "lr-8.progress.json"
    assert read_progress(path) == read_progress(path) or math.isnan(read_progress(path).loss)
    TrainerProgress(steps=3, loss=math.inf, accuracy=0.5, receipt=RECEIPT).write(path)
    assert read_progress(path) == TrainerProgress(
        steps=3, loss=math.inf, accuracy=0.5, receipt=RECEIPT
    )
    TrainerProgress(steps=4).write(path)
    assert math.isnan(read_progress(path).loss)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
