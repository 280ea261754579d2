"""The embedded server and jobs of the client, as processes of their own."""

import os
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import stepclock

from native.ports import LOOPBACK
from native.proxy import Proxy
from schemas.tenants.keys import new_key
from schemas.tenants.keys_file import dump
from tests.e2e.pipeline.chain import service

CLIENT = Path(stepclock.__file__).parents[1]

_IMPORTS = "import json, os, shutil, signal, sys, time, stepclock"


@contextmanager
def embedded_server(folder, *records, **environment):
    """`stepclock-server serve`, with its `key` and `folder`. records: of further keys."""
    key, record = new_key("e2e")
    (folder / "keys.toml").write_text(dump([record, *records]))
    own = {
        "STEPCLOCK_DATA_DIR": str(folder),
        "STEPCLOCK_KEYS_FILE": str(folder / "keys.toml"),
    }
    running = service("serve", ["admin", "serve"], folder, own | environment)
    running.key, running.folder = key, folder
    try:
        yield running
    finally:
        running.process.stop()


def way_to(server):
    """A proxy before it, for faults of the network."""
    return Proxy(LOOPBACK, int(server.url.rpartition(":")[2]))


def surroundings(server, home, **more):
    """The environment of a job or command: nothing of ours is inherited, but where modules lie."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("STEPCLOCK_", "XDG_"))
    }
    own = {
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(CLIENT), os.environ.get("PYTHONPATH", "")]),
        "PYTHONIOENCODING": "utf-8",
        "STEPCLOCK_ENDPOINT": server.url,
        "STEPCLOCK_TOKEN": server.key,
        "STEPCLOCK_SPOOL_DIR": str(home / "spool"),
    }
    return inherited | own | more


@contextmanager
def jobs():
    """Starts programs; those that still run are killed at the end. before: what runs them."""
    started = []

    def start(code, environment, before=()):
        program = f"{_IMPORTS}\n{textwrap.dedent(code)}"
        popen = subprocess.Popen(
            [*before, sys.executable, "-c", program],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(popen)
        return popen

    try:
        yield start
    finally:
        for popen in started:
            with popen:
                popen.kill()
