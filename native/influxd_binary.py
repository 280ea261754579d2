"""The influxd binary, built from its Go module: for machines that have no Docker.

InfluxDB 2 publishes its sources on the Go module proxy and needs libflux, a Rust library whose
sources lie in the module of flux. The build runs inside the module cache, so that the `replace`
lines and checksums of InfluxDB's own go.mod apply. The binary has no web interface.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from native.step import PreparationFailed, Report, cache_folder, exclusive, run_step

VERSION = "v2.7.12"
INFLUXDB_MODULE = "github.com/influxdata/influxdb/v2"
FLUX_MODULE = "github.com/influxdata/flux"


def binary() -> Path:
    """Where the binary is, built or not."""
    return cache_folder("influxd") / f"influxd-{VERSION}"


def missing() -> list[str]:
    """Programs that are needed and not installed; none once the binary is built."""
    if binary().exists():
        return []
    return [name for name in ("go", "cargo", "gcc", "pkg-config") if shutil.which(name) is None]


def ensure_binary(report: Report) -> Path:
    """Build influxd unless that was done before. Takes about 9 minutes on two cores.

    Needs go 1.23, cargo 1.72, gcc and pkg-config, 3 GB of disk and 1.4 GB of memory. Raises
    PreparationFailed.
    """
    if binary().exists():
        return binary()
    with exclusive(binary().parent, report) as work:
        if not binary().exists():
            _build(work, report)
    return binary()


def _build(work: Path, report: Report) -> None:
    if " " in str(work):
        # The linker's search path in flux.pc is split at spaces.
        raise PreparationFailed(f"influxd can't be built below a path with spaces: {work}")
    influxdb = _download(INFLUXDB_MODULE, VERSION, work, report)
    flux_version = _required_version(FLUX_MODULE, influxdb / "go.mod")
    flux = _download(FLUX_MODULE, flux_version, work, report)
    # libflux.a stays beside the binary: Go remembers the path for as long as its cache lives.
    library = binary().parent / "lib"
    _build_libflux(flux, flux_version, library, work, report)
    built = work / "influxd"
    run_step(
        f"influxd {VERSION}: fetching and compiling Go packages",
        [
            *("go", "build", "-C", str(influxdb), "-v", "-mod=readonly", "-trimpath"),
            *("-tags", "sqlite_foreign_keys,sqlite_json"),
            *("-ldflags", f"-s -w -X main.version={VERSION}"),
            *("-o", str(built), "./cmd/influxd"),
        ],
        env={"PKG_CONFIG_PATH": str(library), "CGO_ENABLED": "1"},
        log_path=work / "go-build.log",
        report=report,
    )
    run_step(
        "influxd: asking it for its version",
        [str(built), "version"],
        log_path=work / "version.log",
        report=report,
        timeout_s=60.0,
    )
    built.rename(binary())


def _build_libflux(
    flux: Path, flux_version: str, library: Path, work: Path, report: Report
) -> None:
    target = work / "target"
    description = (
        f"Name: flux\nVersion: {flux_version.removeprefix('v')}\nDescription: libflux\n"
        f"Libs: -L{library} -lflux -ldl -lm -lpthread\nCflags: -I{flux / 'libflux' / 'include'}\n"
    )
    flux_pc = library / "flux.pc"
    if flux_pc.exists() and flux_pc.read_text() == description:  # of an interrupted build
        return
    run_step(
        f"influxd {VERSION}: compiling libflux {flux_version}",
        [
            *("cargo", "build", "--release", "--locked", "--package", "flux"),
            *("--manifest-path", str(flux / "libflux" / "Cargo.toml")),
            *("--target-dir", str(target)),
        ],
        env={
            "RUSTUP_TOOLCHAIN": os.environ.get("RUSTUP_TOOLCHAIN", "stable"),  # they pin an old one
            "RUSTFLAGS": "--cap-lints allow",  # they deny warnings, and new compilers have new ones
            "CARGO_PROFILE_RELEASE_LTO": "off",
        },
        log_path=work / "libflux.log",
        report=report,
    )
    library.mkdir(exist_ok=True)
    # Copied away from libflux.so, which the linker would prefer.
    shutil.copy(target / "release" / "libflux.a", library)
    flux_pc.write_text(description)


def _download(module: str, version: str, work: Path, report: Report) -> Path:
    """Fetch one module into Go's module cache; returns its folder."""
    log_path = work / f"{module.rsplit('/', 1)[-1]}.json"
    run_step(
        f"influxd {VERSION}: fetching {module} {version}",
        ["go", "mod", "download", "-json", f"{module}@{version}"],
        cwd=work,
        log_path=log_path,
        report=report,
        timeout_s=900.0,
    )
    text = log_path.read_text()
    # Notices of go may stand before and behind the object.
    found, _end = json.JSONDecoder().raw_decode(text, text.index("{"))
    return Path(found["Dir"])


def _required_version(module: str, go_mod: Path) -> str:
    found = re.search(rf"^\s*{re.escape(module)} (v\S+)", go_mod.read_text(), re.MULTILINE)
    if found is None:
        raise PreparationFailed(f"{go_mod} does not name {module}")
    return found[1]
