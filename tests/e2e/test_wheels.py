"""Both distributions as users get them: built, installed into empty environments, and run."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from native.ports import free_ports
from native.process import Process
from tests.e2e.pipeline.chain import is_ready

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

# Imports what a wheel brings, and prints where each module of it lies. Left out: a script, and what
# needs a framework or, as the demo, the client.
IMPORT_ALL = """
import importlib, json, pkgutil, sys
left_out = ("native.child", "demo.", "stepclock.integrations.")
where = {}
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    where[name] = package.__file__
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if not module.name.startswith(left_out):
            where[module.name] = importlib.import_module(module.name).__file__
print(json.dumps(where))
"""

JOB = """
import sys, stepclock
run = stepclock.init("resnet50", run_id="r1", endpoint=sys.argv[1])
run.log({"loss": 0.5}, 1)
receipt = run.finish()
print(stepclock.__file__, receipt.logged, receipt.lines, receipt.stored, sep="\\n")
"""


@dataclass(frozen=True)
class Distribution:
    """A folder with a pyproject.toml, and the wheel that was built of a copy of it."""

    folder: Path
    wheel: Path

    @property
    def packages(self):
        project = tomllib.loads((self.folder / "pyproject.toml").read_text("utf-8"))
        patterns = project["tool"]["setuptools"]["packages"]["find"]["include"]
        return [pattern.removesuffix("*") for pattern in patterns]

    @property
    def files(self):
        """What the packages hold in the checkout, by its path in the wheel."""
        return {
            path.relative_to(self.folder).as_posix()
            for package in self.packages
            for path in (self.folder / package).rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and a folder that is its user's home and where all is run."""

    folder: Path
    home: Path

    def run(self, program, *arguments):
        """What a program of the environment prints."""
        done = subprocess.run(
            [self.folder / "bin" / program, *arguments],
            cwd=self.home,
            env={"HOME": str(self.home), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self, wheel):
        """Take a wheel, and nothing else: no index is asked."""
        pip = [sys.executable, "-m", "pip", "--python", self.folder / "bin/python", "install"]
        subprocess.run(
            [*pip, "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel],
            check=True,
            timeout=120,
        )


def built(folder, work):
    """The distribution of a folder, built where no earlier build has left anything."""
    source = work / "source"
    ours = ["pyproject.toml", "README.md", "LICENSE", *Distribution(folder, folder).packages]
    # What is beside the packages is there as well, so that it could slip in.
    ours += [name for name in ("tests", "bench", "grafana") if (folder / name).exists()]
    source.mkdir(parents=True)
    for path in (folder / name for name in ours if (folder / name).exists()):
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
            shutil.copytree(path, source / path.name, ignore=ignored)
        else:
            shutil.copy(path, source / path.name)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--wheel-dir", work / "wheels", source),
        ],
        check=True,
        timeout=120,
    )
    (wheel,) = (work / "wheels").iterdir()
    return Distribution(folder, wheel)


def environment(folder):
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (folder / "home").mkdir()
    return Environment(folder / "venv", folder / "home")


@pytest.fixture(scope="module")
def server_distribution(tmp_path_factory):
    return built(ROOT, tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def client_distribution(tmp_path_factory):
    return built(ROOT / "client", tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def server(server_distribution, tmp_path_factory):
    """The server's wheel with the dependencies of this environment, and without its packages.

    Python adds the folder that a .pth file names, and does not read that folder's .pth files, by
    which a checkout is installed here.
    """
    made = environment(tmp_path_factory.mktemp("installed-server"))
    (packages,) = made.folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    made.install(server_distribution.wheel)
    return made


@pytest.fixture(scope="module")
def client(client_distribution, server, tmp_path_factory):
    """The client's wheel alone, for the user who runs the server: so it finds the key."""
    made = environment(tmp_path_factory.mktemp("installed-client"))
    made.install(client_distribution.wheel)
    return Environment(made.folder, server.home)


@pytest.fixture(scope="module")
def url(server):
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    process = Process(
        "serve",
        [str(server.folder / "bin/stepclock-server"), "serve", "--port", str(port)],
        log_path=server.home / "serve.log",
        ready=lambda: is_ready(url),
        env={"HOME": str(server.home), "PYTHONPATH": ""},
    )
    with contextlib.chdir(server.home):
        process.start()
    yield url
    process.stop()


@pytest.mark.parametrize("which", ["server", "client"])
def test_a_wheel_holds_every_file_of_its_packages_and_no_other(which, request):
    distribution = request.getfixturevalue(f"{which}_distribution")
    with zipfile.ZipFile(distribution.wheel) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == distribution.files
    assert {"schemas/retention.toml", "stepclock/py.typed"} & held


@pytest.mark.parametrize("which", ["server", "client"])
def test_every_module_of_a_wheel_is_imported_from_where_it_was_installed(which, request):
    distribution = request.getfixturevalue(f"{which}_distribution")
    installed = request.getfixturevalue(which)
    where = json.loads(installed.run("python", "-c", IMPORT_ALL, *distribution.packages))
    assert len(where) > 30
    elsewhere = [path for path in where.values() if not Path(path).is_relative_to(installed.folder)]
    assert elsewhere == []


def test_the_gateway_of_the_wheel_says_how_it_is_used(server):
    assert "--port" in server.run("stepclock-server", "gateway", "--help")


def test_a_job_with_the_client_of_the_wheel_is_stored_by_the_server_of_the_wheel(client, url):
    module, logged, lines, stored = client.run("python", "-c", JOB, url).splitlines()
    assert Path(module).is_relative_to(client.folder)
    assert logged == "1"
    assert int(stored) == int(lines) > 0
    shown = client.run("stepclock", "runs", "--endpoint", url)
    assert re.search(r"\bresnet50\b.*\br1\b", shown)
