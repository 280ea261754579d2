"""What the disk has been made to have, by the calls that make it so."""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import stepclock
from stepclock.spool.durable import Durability
from stepclock.spool.segment import segment_path


@pytest.fixture
def disk(monkeypatch):
    """What each path's bytes or names were when they were last forced."""
    forced = {}

    def record(fd):
        path = Path(f"/proc/self/fd/{fd}").readlink()
        forced[path] = sorted(os.listdir(path)) if path.is_dir() else path.read_bytes()

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, record)
    if not Path("/proc/self/fd").exists():
        pytest.skip("looks into /proc")
    return forced


def begin(**settings):
    settings = {"mode": "offline", "handle_signals": False, "system_interval": 0, **settings}
    return stepclock.init("e", **settings)


def test_without_the_setting_nothing_is_forced(disk):
    run = begin()
    run.log({"loss": 1}, 1)
    run.finish()
    assert disk == {}
    assert "stepclock-fsync" not in [thread.name for thread in threading.enumerate()]


def test_at_the_end_the_disk_has_every_row_and_every_name(disk, tmp_path):
    run = begin(fsync=0.05)
    for step in range(100):
        run.log({"loss": 1}, step)
    run.finish()
    segments = sorted(run.folder.glob("*.seg"))
    assert segments
    assert [disk[path] for path in segments] == [path.read_bytes() for path in segments]
    assert disk[run.folder / "stream.json"]
    assert set(disk[run.folder]) >= {"stream.json", *(path.name for path in segments)}
    assert run.folder.name in disk[run.folder.parent]
    assert run.folder.parent.name in disk[run.folder.parent.parent]


def test_what_grew_is_forced_again_and_what_did_not_is_left_alone(disk, tmp_path):
    folder = tmp_path / "spool" / "s"
    folder.mkdir(parents=True)
    (folder / "stream.json").write_text("{}")
    first, second = segment_path(folder, 0), segment_path(folder, 1)
    first.write_bytes(b"a")
    durability = Durability(folder, 1.0)
    durability.turn()
    assert disk.pop(first) == b"a"
    disk.clear()
    durability.turn()
    assert disk == {}
    with first.open("ab") as file:
        file.write(b"b")
    durability.turn()
    assert disk == {first: b"ab"}
    disk.clear()
    second.write_bytes(b"c")
    durability.turn()
    assert disk == {second: b"c", folder: ["00000000.seg", "00000001.seg", "stream.json"]}
    first.unlink()
    durability.turn()
    assert first not in disk


def test_a_disk_that_can_not_is_told_once_and_harms_nobody(monkeypatch, caplog):
    def refuse(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", refuse)
    run = begin(fsync=0.01)
    run.log({"loss": 1}, 1)
    assert run.finish().unsent
    assert caplog.text.count("can't be forced to the disk: [Errno 5]") == 1


def test_what_a_number_means_is_on_the_disk_before_it_is_sent(disk):
    """Or a start after a power cut would give the number to other lines."""
    seen = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            (journal,) = Path(os.environ["STEPCLOCK_SPOOL_DIR"]).glob("*/journal.jsonl")
            seen.append(disk.get(journal) == journal.read_bytes())
            self.send_response(204)
            self.end_headers()

        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        run = begin(mode="online", endpoint=endpoint, fsync=5.0, send_interval=0.05)
        for step in range(20):
            run.log({"loss": 1}, step)
            run.flush(1.0)
        run.finish(timeout=1.0)
        server.shutdown()
        thread.join()
    assert len(seen) >= 20
    assert all(seen)
