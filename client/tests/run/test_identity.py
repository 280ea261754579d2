import pytest

from stepclock import identity
from stepclock.identity import identify, rank_of, stream_name


@pytest.fixture(autouse=True)
def first_run_of_the_process():
    identity._given.clear()


@pytest.fixture
def who(tmp_path):
    def ask(environ=None, *, experiment="e", name=None, run_id=None, attempt=None, anew=True):
        if anew:  # a new process
            identity._given.clear()
        return identify(experiment, name, run_id, attempt, tmp_path, environ or {})

    return ask


def test_without_a_scheduler_each_start_is_a_run_of_its_own(who):
    first, second = who(name="try"), who(name="try")
    assert first.run.startswith("try-")
    assert first.run != second.run
    assert (first.attempt, first.rank) == (0, 0)


def test_an_id_that_is_given_wins_and_its_starts_are_counted_on_this_machine(who):
    slurm = {"SLURM_JOB_ID": "7", "STEPCLOCK_RUN_ID": "from-environment"}
    assert who(slurm, run_id="mine").run == "mine"
    assert who(slurm).run == "from-environment"
    assert [who(run_id="again").attempt for _ in range(3)] == [0, 1, 2]
    assert who(run_id="other").attempt == 0
    assert who(run_id="again", experiment="another").attempt == 0


def test_the_ranks_of_a_job_count_alike(who):
    for attempt in range(2):
        ranks = [who({"RANK": str(rank)}, run_id="r") for rank in range(3)]
        assert [(each.rank, each.attempt) for each in ranks] == [(n, attempt) for n in range(3)]


@pytest.mark.parametrize(
    ("environ", "run"),
    [
        ({"SLURM_JOB_ID": "123"}, "slurm-123"),
        (
            {"SLURM_JOB_ID": "130", "SLURM_ARRAY_JOB_ID": "123", "SLURM_ARRAY_TASK_ID": "4"},
            "slurm-123_4",
        ),
        ({"TORCHELASTIC_RUN_ID": "job-9", "TORCHELASTIC_RESTART_COUNT": "0"}, "job-9"),
        ({"POD_NAME": "train-0", "POD_UID": "0123456789"}, "train-0-01234567"),
    ],
)
def test_all_starts_of_a_job_have_the_same_id(who, environ, run):
    assert who(environ).run == who(environ).run == run
    assert who(environ, name="big").run == f"{run}-big"


def test_the_second_run_of_a_job_has_a_name_that_its_restart_finds_again(who):
    environ = {"SLURM_JOB_ID": "1"}
    for _ in range(2):
        assert who(environ).run == "slurm-1"
        assert who(environ, anew=False).run == "slurm-1-2"


@pytest.mark.parametrize(
    ("environ", "attempt"),
    [
        ({"SLURM_JOB_ID": "1"}, 0),
        ({"SLURM_JOB_ID": "1", "SLURM_RESTART_COUNT": "2"}, 2),
        ({"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "3"}, 3),
        (
            {
                "SLURM_JOB_ID": "1",
                "SLURM_RESTART_COUNT": "1",
                "TORCHELASTIC_RUN_ID": "x",
                "TORCHELASTIC_RESTART_COUNT": "0",
            },
            1000,
        ),
        ({"STEPCLOCK_RUN_ID": "r", "STEPCLOCK_ATTEMPT": "5"}, 5),
    ],
)
def test_attempts_are_counted_as_the_scheduler_does(who, environ, attempt):
    assert who(environ).attempt == attempt
    assert who(environ, attempt=9).attempt == 9


def test_torchruns_default_id_is_none(who):
    assert who({"TORCHELASTIC_RUN_ID": "none"}).run != "none"


@pytest.mark.parametrize(
    ("environ", "rank"),
    [
        ({}, 0),
        ({"RANK": "5", "SLURM_PROCID": "1"}, 5),
        ({"SLURM_PROCID": "2"}, 2),
        ({"SLURM_PROCID": "2", "SLURM_JOB_NAME": "bash"}, 0),
        ({"OMPI_COMM_WORLD_RANK": "3"}, 3),
        ({"RANK": "x"}, 0),
    ],
)
def test_the_rank_is_what_the_launcher_says(environ, rank):
    assert rank_of(environ) == rank


def test_where_nothing_can_be_counted_the_first_attempt_is_assumed(tmp_path):
    (tmp_path / "file").write_text("")
    assert identify("e", None, "r", None, tmp_path / "file", {}).attempt == 0


def test_a_stream_has_a_name_of_its_own_that_a_header_and_a_folder_can_hold(who):
    one = who(run_id="ünï/code " + "x" * 200 + "y")
    names = {stream_name(one, 5) for _ in range(20)}
    assert len(names) == 20
    for name in names:
        assert name.isascii()
        assert "/" not in name
        assert len(name) < 200
