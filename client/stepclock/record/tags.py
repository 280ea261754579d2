"""What a run tells of its surroundings, without asking anybody to type it."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

#: Variables that say where a job runs; none of them holds a secret.
_VARIABLES = re.compile(
    r"SLURM_(?:(?:ARRAY_)?(?:JOB|TASK)_\w+|CLUSTER_NAME|NNODES|NTASKS|NODEID|LOCALID|PROCID"
    r"|RESTART_COUNT|SUBMIT_DIR|NODELIST|GPUS_ON_NODE|CPUS_ON_NODE)"
    r"|(?:LOCAL_|GROUP_)?RANK|(?:LOCAL_)?WORLD_SIZE|TORCHELASTIC_(?:RUN_ID|RESTART_COUNT)"
    r"|POD_(?:NAME|NAMESPACE|UID)|NODE_NAME|JOB_COMPLETION_INDEX|CUDA_VISIBLE_DEVICES"
)

_CALLED = r"[\w.-]*(?:password|passwd|secret|token|api[_-]?key|access[_-]?key|credential)s?"

#: What looks like a secret: a named one, one in a URL, and keys whose form is known.
_SECRETS = re.compile(
    rf"""(?P<name>{_CALLED}["']?(?:\s*[=:]\s*|\s+)["']?)[^\s"',;&]+"""
    r"|(?P<url>://[^\s/:@]*:)[^\s/@]+(?=@)"
    r"|\b(?:sk|hf|ghp|gho|glpat|xox[a-z])[_-][A-Za-z0-9_-]{8,}"
    r"|\bAKIA[0-9A-Z]{12,}|\beyJ[\w-]{10,}\.[\w-]+\.[\w-]*",
    re.IGNORECASE,
)

_GIT_S = 5.0


def surroundings(
    *, full: bool, environ: Mapping[str, str] = os.environ, folder: Path | None = None
) -> dict[str, object]:
    """Host, Python, scheduler and the state of the code; takes a moment. full: the command too."""
    found: dict[str, object] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count() or 0,
    }
    for name, value in environ.items():
        if value and _VARIABLES.fullmatch(name):
            found[f"env/{name}"] = value
    found.update(_git(folder or _code_folder()))
    if full:
        found["command"] = masked(" ".join([sys.executable, *sys.argv]))
        found["folder"] = str(Path.cwd())
    return found


def masked(text: str) -> str:
    """The text with `***` for what looks like a secret."""

    def mask(match: re.Match[str]) -> str:
        return f"{match['name'] or match['url'] or ''}***"

    return _SECRETS.sub(mask, text)


def traceback_of(error: BaseException) -> str:
    """The traceback, its end if it is long, secrets masked."""
    import traceback

    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return masked(text)[-8000:]


def _code_folder() -> Path:
    """Where the program lies that is run."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(main).resolve().parent if main else Path.cwd()


def _git(folder: Path) -> dict[str, object]:
    """Commit, branch and whether the code differs from it; nothing where there is no git."""
    commit = _ask_git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    found: dict[str, object] = {"git/commit": commit}
    branch = _ask_git(folder, "rev-parse", "--abbrev-ref", "HEAD")
    if branch:
        found["git/branch"] = branch
    changed = _ask_git(folder, "status", "--porcelain", "--untracked-files=no")
    if changed is not None:
        found["git/dirty"] = bool(changed)
    return found


def _ask_git(folder: Path, *question: str) -> str | None:
    command = ["git", "-C", str(folder), "--no-optional-locks", *question]
    try:
        done = subprocess.run(  # noqa: S603 -- fixed words and a folder
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
