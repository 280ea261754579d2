"""Becomes another program that dies with the process that started it.

Run by path, never imported: ``python -I -S child.py PARENT_PID PROGRAM ARGUMENT…``. On Linux
the kernel then sends SIGKILL when the starting thread ends (prctl(2), PR_SET_PDEATHSIG, kept
over execve), so not even `kill -9` of a test run leaves a broker behind. Elsewhere there is
no such call, and only an orderly exit of the parent ends the child.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie our life to the parent's, then become the program."""
    parent_pid, program, *arguments = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != int(parent_pid):  # it died before the call above
            sys.exit(1)
    os.execvp(program, [program, *arguments])  # noqa: S606 -- becoming the program is the point


main()
