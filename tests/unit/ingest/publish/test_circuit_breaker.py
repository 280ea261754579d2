from ingest.publish.circuit_breaker import CircuitBreaker, CircuitState


def closed():
    breaker = CircuitBreaker()
    breaker.probe_succeeded()
    return breaker


def half_open():
    breaker = closed()
    breaker.failed()
    breaker.probe_succeeded()
    return breaker


def test_a_new_breaker_refuses_until_a_probe_has_succeeded():
    breaker = CircuitBreaker()
    assert breaker.refuses()
    breaker.probe_succeeded()
    assert breaker.state is CircuitState.CLOSED


def test_after_a_failure_a_probe_and_a_trial_must_succeed():
    breaker = half_open()
    assert breaker.state is CircuitState.HALF_OPEN
    assert not breaker.refuses()
    breaker.begin()
    breaker.succeeded()
    assert breaker.state is CircuitState.CLOSED


def test_half_open_lets_one_block_try_at_a_time():
    breaker = half_open()
    breaker.begin()
    assert breaker.refuses()


def test_a_failed_trial_opens_again():
    breaker = half_open()
    breaker.begin()
    breaker.failed()
    assert breaker.state is CircuitState.OPEN


def test_one_block_that_missed_its_deadline_opens():
    breaker = closed()
    breaker.failed()
    assert breaker.refuses()


def test_a_late_acknowledgement_does_not_close_an_open_breaker():
    breaker = closed()
    breaker.failed()
    breaker.succeeded()
    assert breaker.state is CircuitState.OPEN


def test_a_probe_does_not_disturb_a_closed_breaker():
    breaker = closed()
    breaker.probe_succeeded()
    assert breaker.state is CircuitState.CLOSED
