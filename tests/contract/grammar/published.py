"""The published grammar of line protocol, asked through the Go program in tests/oracle."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.services import Absent

SOURCE = Path(__file__).parents[2] / "oracle"
BUILD_TIMEOUT_S = 240


@dataclass(frozen=True, slots=True)
class Reading:
    """What the grammar reads in a line, names unescaped; fields as (key, kind, value)."""

    measurement: bytes
    tags: tuple[tuple[bytes, bytes], ...]
    fields: tuple[tuple[bytes, str, bytes], ...]
    time: int | None


class Grammar:
    """One process, asked line by line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._requests = process.stdin
        self._answers = process.stdout

    def read(self, line: bytes) -> Reading | str:
        """What it reads in a line (times in ns), or why it refuses."""
        self._requests.write(struct.pack(">I", len(line)) + line)
        self._requests.flush()
        (size,) = struct.unpack(">I", self._answers.read(4))
        answer = self._answers.read(size)
        if answer[:1] == b"-":
            return answer[1:].decode(errors="replace")
        frames = _frames(answer[1:])
        measurement = next(frames)
        tags = tuple((next(frames), next(frames)) for _ in range(int(next(frames))))
        fields = tuple(
            (next(frames), next(frames).decode(), next(frames)) for _ in range(int(next(frames)))
        )
        time = next(frames)
        return Reading(measurement, tags, fields, int(time) if time else None)


@contextmanager
def grammar(folder: Path) -> Iterator[Grammar]:
    """Build the program into a folder and run it for as long as the block lasts. Raises Absent."""
    binary = folder / "oracle"
    build = ["go", "build", "-mod=readonly", "-o", str(binary), "."]
    try:
        subprocess.run(
            build, cwd=SOURCE, check=True, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S
        )
    except FileNotFoundError:
        raise Absent("no published grammar without go") from None
    except subprocess.CalledProcessError as exc:
        raise Absent(f"the published grammar can't be built: {exc.stderr.strip()}") from exc
    with subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Grammar(process)
        assert process.stdin is not None
        process.stdin.close()


def _frames(data: bytes) -> Iterator[bytes]:
    pos = 0
    while pos < len(data):
        (size,) = struct.unpack_from(">I", data, pos)
        yield data[pos + 4 : pos + 4 + size]
        pos += 4 + size
