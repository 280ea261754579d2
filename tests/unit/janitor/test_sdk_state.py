"""What the client says of a run's state is what the server's own module says it is."""

import pytest
from stepclock.identity import Identity
from stepclock.record.state import state_line

from schemas.line_protocol.codec import parse
from schemas.store.attempts import AttemptState
from schemas.store.run_state import State, line_of

TIME_NS = 1_795_277_400_000_000_000
OF_JOBS = [State.RUNNING, State.FINISHED, State.FAILED, State.PREEMPTED]


@pytest.mark.parametrize("state", OF_JOBS)
@pytest.mark.parametrize(("first", "last"), [(None, None), (0, 0), (800, 1240)])
@pytest.mark.parametrize("reason", ["", 'ValueError: "a" = 1, at \\ 2'])
@pytest.mark.parametrize("run", ["r12", "a run, with=everything"])
def test_the_client_and_the_server_write_the_same_line_of_a_state(state, first, last, reason, run):
    identity = Identity("resnet 50", run, rank=3, attempt=1)
    line = state_line(identity, state.value, TIME_NS, first, last, reason)
    expected = AttemptState(
        experiment="resnet 50",
        run=run,
        rank="3",
        attempt="1",
        state=state.value,
        time_ns=TIME_NS,
        first_step=first,
        step=last,
        reason=reason,
    )
    assert parse(line.encode()) == parse(line_of(expected))
