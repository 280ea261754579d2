"""What lies in the spools of a test."""

import os
from pathlib import Path

from stepclock.spool.chunk import chunks
from stepclock.spool.stream import Stream


def spooled(class_name="raw"):
    """Lines in all spools by stream."""
    found = {}
    for folder in sorted(Path(os.environ["STEPCLOCK_SPOOL_DIR"]).iterdir()):
        lines = found.setdefault(Stream.read(folder).name, [])
        for path in sorted(folder.glob("*.seg")):
            for chunk in chunks(path.read_bytes()):
                if chunk.class_name == class_name:
                    lines += chunk.payload.decode().split("\n")
    return found


def all_lines(class_name="raw"):
    return [line for lines in spooled(class_name).values() for line in lines]
