"""README.md is true: its snippets run, its answers are the answers, what it names is there."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pkgutil
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapters.settings import load_retention
from admin.settings import all_settings
from native.ports import free_ports
from tests.deadline import eventually
from tests.e2e.pipeline.chain import get, service

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text("utf-8")

COMMANDS, FIRST_SERVER, JOB, SENDING, REAL, OPERATING = (
    "Stepclock",
    "A first server",
    "From a training job",
    "Sending metrics",
    "On Kafka and InfluxDB",
    "Operating",
)
#: (heading, language) of every fenced block that a test of this file runs or compares.
CLAIMED = [
    (COMMANDS, "sh"),
    (FIRST_SERVER, "sh"),
    (FIRST_SERVER, "json"),
    (JOB, "python"),
    (SENDING, "sh"),
    (SENDING, "json"),
    (REAL, "sh"),
    (OPERATING, "sh"),
]

DAY_S = 86_400

#: Ends what a snippet left in the background, once standard input is closed; each must end well.
THE_END = 'read -r _ || true; for job in $(jobs -p); do kill "$job"; wait "$job"; done'

needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None or shutil.which("bash") is None,
    reason="curl or bash is not installed",
)


def fenced_blocks():
    """(heading, language) -> text of each fenced block, in order; two alike are a mistake."""
    found = {}
    heading = ""
    for match in re.finditer(
        r"^#+ (?P<heading>.+)$|^```(?P<language>.*)\n(?P<text>(?:.*\n)*?)```$", README, re.MULTILINE
    ):
        if match["heading"]:
            heading = match["heading"]
            continue
        name = heading, match["language"]
        assert name not in found, f"two blocks {name}: give the tests a way to tell them apart"
        found[name] = match["text"]
    return found


BLOCKS = fenced_blocks()
INLINE_COMMANDS = re.findall(r"`(stepclock-server [^`]+)`", README)


@dataclass
class Shell:
    """A script in bash, and what it has printed."""

    popen: subprocess.Popen[bytes]
    out_path: Path
    err_path: Path

    @property
    def out(self):
        return self.out_path.read_text("utf-8")

    @property
    def tail(self):
        return f"{self.out[-2000:]}\n{self.err_path.read_text('utf-8')[-4000:]}"

    def finish(self, within_s):
        """Let the script come to its end; what it has printed."""
        self.popen.stdin.close()
        assert self.popen.wait(within_s) == 0, self.tail
        return self.out


@contextlib.contextmanager
def shell(script, folder, **environment):
    """Runs a script in a folder and a home of its own; none of its processes outlives the block."""
    home = folder / "home"
    home.mkdir()
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("STEPCLOCK_", "XDG_"))
    }
    own = {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    out_path, err_path = folder / "out", folder / "err"
    with out_path.open("wb") as out, err_path.open("wb") as err:
        popen = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", f"{script}\n{THE_END}\n"],
            cwd=folder,
            env=inherited | own | environment,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    try:
        yield Shell(popen, out_path, err_path)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.stdin.close()
        popen.wait()


def replaced(text, **by):
    """The text with each default replaced by what this test has; each must be there."""
    for old, new in by.items():
        assert old in text, f"the snippet does not hold {old!r} any more"
        text = text.replace(old, new)
    return text


def test_every_fenced_block_is_run_or_compared():
    assert list(BLOCKS) == CLAIMED


def test_every_make_target_is_there_with_its_help():
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test", "install", "demo-real"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:.*## .+", MAKEFILE, re.MULTILINE), target


def test_the_two_commands_are_targets_that_make_can_carry_out():
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    commands = [line.split("#")[0].strip() for line in BLOCKS[COMMANDS, "sh"].splitlines()]
    assert commands == ["make demo", "make test"]
    for command in commands:
        dry = subprocess.run(
            [*shlex.split(command), "--dry-run"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert dry.returncode == 0, dry.stderr


@pytest.mark.slow
@needs_curl
def test_a_first_server_and_sending_metrics_go_as_written(tmp_path):
    (port,) = free_ports(1)
    url = f"127.0.0.1:{port}"
    install, first_server = BLOCKS[FIRST_SERVER, "sh"].split("\n", 1)
    assert install == "make install", "this test runs where that is done already"
    script = "\n".join(
        [
            replaced(first_server, **{"127.0.0.1:8787": url}),
            replaced(BLOCKS[SENDING, "sh"], **{"127.0.0.1:8787": url}),
            *(f"echo; echo '{command}'; {command}" for command in INLINE_COMMANDS),
        ]
    )
    with shell(script, tmp_path, STEPCLOCK_PORT=str(port)) as running:
        out = running.finish(within_s=60)
    assert '{"status":"ready"}' in out
    assert out.count("HTTP/1.1 204") == 1
    assert "stepclock-receipt: 1.raw-0-0" in out.lower()
    assert BLOCKS[FIRST_SERVER, "json"].strip() in out
    assert out.count("HTTP/1.1 202") == 1
    assert BLOCKS[SENDING, "json"].strip() in out
    assert len(re.findall("^sk_", out, re.MULTILINE)) == 1
    assert "rate = 50000" in (tmp_path / "home/.local/share/stepclock/keys.toml").read_text()


def test_a_training_job_is_five_lines_and_finds_the_server_on_its_machine(tmp_path):
    code = BLOCKS[JOB, "python"]
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": ""}
    server = service("serve", ["admin", "serve"], tmp_path, home)
    try:
        job = subprocess.run(
            [sys.executable, "-c", f"{code}print(run.finish())"],
            env=os.environ
            | home
            | {"PYTHONPATH": str(ROOT / "client"), "STEPCLOCK_ENDPOINT": server.url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert job.returncode == 0, job.stderr
        assert ": 1000 logged, " in job.stdout
        assert "unsent" not in job.stdout
        key = re.search('"(.+)"', (tmp_path / ".config/stepclock/credentials.toml").read_text())[1]
        port = int(server.url.rpartition(":")[2])
        assert eventually(lambda: steps(port, key) == list(range(1000)))
    finally:
        server.process.stop()


@needs_curl
def test_the_snippet_for_kafka_and_influxdb_goes_as_written(tmp_path, kafka, influx):
    port, probe_port = free_ports(2)
    (tmp_path / "token").write_text(influx.token + "\n")
    script = "\n".join(
        [
            replaced(
                BLOCKS[REAL, "sh"],
                **{
                    "127.0.0.1:9092": kafka.bootstrap_servers,
                    "http://127.0.0.1:8086": influx.url,
                    "INFLUX_ORG=stepclock": f"INFLUX_ORG={influx.org}",
                },
            ),
            f"curl -s --retry 9 --retry-connrefused http://127.0.0.1:{port}/readyz",
            replaced(BLOCKS[SENDING, "sh"], **{"127.0.0.1:8787": f"127.0.0.1:{port}"}),
            BLOCKS[OPERATING, "sh"],
            'echo "$KEY" > key.draft; mv key.draft key',
        ]
    )
    with shell(
        script, tmp_path, STEPCLOCK_PORT=str(port), STEPCLOCK_PROBE_PORT=str(probe_port)
    ) as running:
        assert eventually(
            lambda: (tmp_path / "key").exists() or running.popen.poll() is not None, 60
        )
        assert (tmp_path / "key").exists(), running.tail
        assert "HTTP/1.1 202" in running.out, running.tail
        key = (tmp_path / "key").read_text().strip()
        assert eventually(lambda: 1201 in steps(port, key), 60), running.tail
        for path in re.findall(r"`(/(?:livez|readyz|health|metrics))`", README):
            assert get(f"http://127.0.0.1:{port}", path)
            assert get(f"http://127.0.0.1:{probe_port}", path)
        running.finish(within_s=40)


def steps(port, key):
    """Steps of metric lr that can be read back."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v1/experiments/resnet50/series?metric=lr",
        headers={"Authorization": f"Bearer {key}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return [t for run in json.load(answer)["runs"] for t in run["t"]]


def test_every_setting_that_is_named_exists():
    known = {setting.variable for setting in all_settings()}
    for variable in set(re.findall(r"STEPCLOCK_[A-Z_]+[A-Z]", README)):
        assert variable in known or variable.removesuffix("_FILE") in known, variable


def test_every_file_that_is_named_exists():
    named = re.findall(r"`([\w./-]+(?:\.md|/[\w.-]+\.toml|/))`", README)
    assert "docs/line-protocol.md" in named
    for path in named:
        assert (ROOT / path).exists(), path


def test_every_module_that_is_named_can_be_run():
    named = re.findall(r"python -m (\w+)", README)
    assert set(named) == {"ingest", "consumers", "janitor"}
    for module in named:
        assert importlib.util.find_spec(f"{module}.__main__"), module


def test_the_retention_classes_keep_as_long_as_it_says():
    said = re.findall(r"`(\w+)` \((\d+ days|kept for ever)\)", README)
    kept = {
        name: "kept for ever" if c.keep_s is None else f"{c.keep_s // DAY_S} days"
        for name, c in load_retention(None).items()
    }
    assert dict(said) == kept


def test_every_name_on_the_page_of_the_architecture_is_a_name_of_the_code():
    names = re.findall(r"`((?:[a-z_]+\.)+\w+)`", ARCHITECTURE)
    names = [name for name in names if not name.endswith((".py", ".toml"))]
    assert len(names) >= 20
    for name in names:
        assert pkgutil.resolve_name(name), name


def test_every_file_on_the_page_of_the_architecture_is_there():
    paths = re.findall(r"`([a-z_0-9]+/[\w/.-]+)`", ARCHITECTURE)
    assert len(paths) >= 10
    folders = [ROOT, ROOT / "client/stepclock"]
    for path in paths:
        assert any(list(folder.glob(f"{path.rstrip('/')}*")) for folder in folders), path
