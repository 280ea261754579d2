"""An authority of one test, and what it signs, made by the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_NEW = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]


@dataclass(frozen=True)
class Signed:
    """A certificate and its key as PEM files; `both` holds the two, as Kafka wants them."""

    certificate: Path
    key: Path
    both: Path


@dataclass(frozen=True)
class Authority:
    folder: Path

    @property
    def file(self):
        return self.folder / "ca.pem"

    @classmethod
    def new(cls, folder):
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(folder)
        # Python 3.13 takes none without a key usage.
        usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        _run(folder / "ca.key", made.file, "authority", usage)
        return made

    def sign(self, name):
        """A certificate for 127.0.0.1, localhost and gateway.test, of the common name `name`."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        _run(
            key,
            certificate,
            name,
            [
                *("-CA", str(self.file), "-CAkey", str(self.folder / "ca.key")),
                *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:gateway.test"),
                *("-addext", "basicConstraints=critical,CA:FALSE"),
            ],
        )
        both = self.folder / f"{name}.both.pem"
        both.write_text(key.read_text() + certificate.read_text())
        return Signed(certificate, key, both)


def _run(key, certificate, name, options):
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    files = ["-nodes", "-days", "2", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(
        [*_NEW, *files, "-subj", f"/CN={name}", *options],
        check=True,
        capture_output=True,
        timeout=30,
    )
