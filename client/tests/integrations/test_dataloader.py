"""Workers of a real DataLoader log through the run of the process that made them."""

import warnings

import pytest
from spools import all_lines

import stepclock

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="needs torch", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("default")  # theirs are not ours to mend

ITEMS, WORKERS = 64, 8


class Logged(torch.utils.data.Dataset):
    """Each item is logged by the worker that loads it, at the step of its index."""

    def __init__(self, run):
        self.run = run

    def __len__(self):
        return ITEMS

    def __getitem__(self, index):
        self.run.log({"data/mean": torch.tensor(float(index))}, step=index)
        return index


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("persistent", [False, True])
def test_rows_of_eight_workers_arrive_and_none_of_them_hangs(method, persistent):
    run = stepclock.init("loading", mode="offline", handle_signals=False, system_interval=0)
    loader = torch.utils.data.DataLoader(
        Logged(run),
        num_workers=WORKERS,
        batch_size=4,
        multiprocessing_context=method,
        persistent_workers=persistent,
        timeout=120,
    )
    assert sorted(index for batch in loader for index in batch.tolist()) == list(range(ITEMS))
    del loader
    run.log({"train/loss": 1.0}, step=ITEMS)
    run.finish()
    steps = sorted(int(line.partition(",step=")[2].partition("i")[0]) for line in all_lines())
    assert steps == list(range(ITEMS + 1))
