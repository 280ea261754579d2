"""The SDK against the embedded server: what is logged is stored, and the receipt says so."""

from contextlib import closing

import pytest
import stepclock

from embedded.store import SqliteStore
from schemas.keys import new_key
from schemas.keys_file import dump
from tests.e2e.chain import service


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdk")
    key, record = new_key("e2e")
    (folder / "keys.toml").write_text(dump([record]))
    environment = {
        "STEPCLOCK_DATA_DIR": str(folder),
        "STEPCLOCK_KEYS_FILE": str(folder / "keys.toml"),
    }
    running = service("serve", ["admin", "serve"], folder, environment)
    running.key = key
    running.data_dir = folder
    yield running
    running.process.stop()


@pytest.fixture
def points(server):
    def read(class_name, measurement):
        with closing(SqliteStore(server.data_dir / "store.db")) as store:
            return list(store.points("stepclock", class_name, measurement))

    return read


@pytest.fixture
def begin(server, tmp_path):
    """A run against the server, with a spool of its own."""

    def run(experiment, **arguments):
        return stepclock.init(
            experiment,
            **{
                "endpoint": server.url,
                "token": server.key,
                "spool_dir": str(tmp_path / "spool"),
                "handle_signals": False,
                "system_interval": 0,
                **arguments,
            },
        )

    return run


def test_what_a_job_logs_is_stored_and_its_receipt_says_so(begin, points, tmp_path):
    run = begin("thin", run_id="r1", config={"lr": 0.1, "model": {"name": "resnet"}})
    for step in range(500):
        run.log({"train": {"loss": 1 / (step + 1)}, "lr": 0.1}, step=step)
    receipt = run.finish()
    assert receipt.ok, str(receipt)
    assert receipt.logged == 500
    assert receipt.missing == {}
    stored = points("raw", "thin")
    assert sorted(point.fields["step"] for point in stored) == list(range(500))
    assert {point.fields["train/loss"] for point in stored} == {1 / n for n in range(1, 501)}
    assert {tuple(sorted(point.tags.items())) for point in stored} == {
        (("attempt", "0"), ("rank", "0"), ("run", "r1"))
    }
    config = {p.tags["key"]: p.fields["value"] for p in points("events", "run_config")}
    assert config["model/name"] == "resnet"
    assert config["lr"] == "0.1"
    assert list((tmp_path / "spool").iterdir()) == []
