"""How the process keeps its memory: Python's garbage collector and the C library's allocator."""

from __future__ import annotations

import ctypes
import gc

# mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_MIB = 1024 * 1024


def settle() -> None:
    """Suit both to requests. Call it once everything that stays for good has been made."""
    _spare_the_collector()
    _keep_freed_memory()


def _spare_the_collector() -> None:
    """Look at requests only, and less often.

    A request makes some hundred objects, and hardly ever a cycle. With Python's thresholds
    the collector took a tenth of a small request, again and again over the same modules.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def _keep_freed_memory() -> None:
    """Keep up to 64 MiB of freed memory for the next bodies.

    glibc gives freed memory back to the system beyond 128 KiB, and gets it anew for each body,
    page by page: a sixth of a request of 1,000 lines. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 64 * _MIB)
        mallopt(_M_MMAP_THRESHOLD, 4 * _MIB)
