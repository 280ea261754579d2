import shutil
import subprocess

import pytest

from stepclock.record.tags import masked, surroundings, traceback_of


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("train.py --api-key abcdef123 --lr 0.1", "abcdef123"),
        ("train.py --token=abcdef123", "abcdef123"),
        ("WANDB_API_KEY=abcdef123 python x", "abcdef123"),
        ('{"password": "hunter2hunter2"}', "hunter2hunter2"),
        ("postgres://user:hunter2@host/db", "hunter2"),
        ("using sk_0123456789_abcdefghij now", "sk_0123456789_abcdefghij"),
        ("hf_abcdefghijklmnop", "hf_abcdefghijklmnop"),
        ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sig-nature", "sig-nature"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text, secret):
    assert secret not in masked(text)
    assert "***" in masked(text)


@pytest.mark.parametrize("text", ["train.py --lr 0.1 --epochs 3", "loss=0.5 at step 100", ""])
def test_other_text_stays_as_it_is(text):
    assert masked(text) == text


def test_the_command_line_is_told_only_when_asked_for(tmp_path):
    assert "command" not in surroundings(full=False, environ={}, folder=tmp_path)
    assert surroundings(full=True, environ={}, folder=tmp_path)["command"]


def test_only_known_variables_of_schedulers_are_told(tmp_path):
    environ = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_PARTITION": "gpu",
        "SLURM_ARRAY_TASK_ID": "3",
        "RANK": "0",
        "POD_NAME": "p",
        "SLURM_JWT": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "HOME": "/h",
        "WORLD_SIZE": "",
    }
    told = surroundings(full=False, environ=environ, folder=tmp_path)
    assert {key: value for key, value in told.items() if key.startswith("env/")} == {
        "env/SLURM_JOB_ID": "7",
        "env/SLURM_JOB_PARTITION": "gpu",
        "env/SLURM_ARRAY_TASK_ID": "3",
        "env/RANK": "0",
        "env/POD_NAME": "p",
    }
    assert told["host"]
    assert told["python"]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_told_and_whether_the_code_differs_from_it(tmp_path):
    def git(*words):
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def told():
        found = surroundings(full=False, environ={}, folder=tmp_path)
        return found.get("git/commit"), found.get("git/dirty")

    assert told() == (None, None)
    git("init", "-q")
    (tmp_path / "train.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD")
    assert told() == (commit, False)
    (tmp_path / "new").write_text("untracked files don't count")
    assert told() == (commit, False)
    (tmp_path / "train.py").write_text("2")
    assert told() == (commit, True)


def test_a_traceback_is_masked():
    try:
        raise ValueError("token=abcdef123")
    except ValueError as exc:
        text = traceback_of(exc)
    assert "ValueError" in text
    assert "abcdef123" not in text
