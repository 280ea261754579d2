"""What a 2xx is worth: real processes, killed and frozen under load, every point compared."""

import time
from statistics import median

import pytest

from tests.deadline import eventually
from tests.e2e.pipeline.chain import chain, get
from tests.e2e.pipeline.load import Load, assert_all_stored

pytestmark = pytest.mark.slow

#: Kafka must be away for longer than the gateway waits for its acknowledgement.
ACK_DEADLINE_S = 10.0


@pytest.fixture
def own(tmp_path, kafka_process, influx_process):
    """A chain on a broker and a database of the test's own, to be killed."""
    broker, database = kafka_process(), influx_process()
    with chain(tmp_path, broker.bootstrap_servers, database) as running:
        running.broker, running.database = broker, database
        yield running


def test_a_consumer_killed_in_mid_batch_loses_and_doubles_nothing(own):
    own.add_consumer()
    with Load(own.urls, own.key, threads=3) as load:
        for victim in (0, 1):
            load.wait_for(3000)
            own.consumers[victim].process.kill()
            load.wait_for(1000)
            own.consumers[victim].process.start()
        load.wait_for(1000)
    assert load.answers.keys() == {204}
    assert_all_stored(own.reader, load)


def test_with_the_database_away_for_a_minute_points_wait_in_the_log(own):
    with Load(own.urls, own.key, pause_s=0.05) as load:
        load.wait_for(500)
        own.database.process.kill()
        stays_away(60)
        own.database.process.start()
        load.wait_for(500)
    assert load.answers.keys() == {204}, "the gateway never waits for the store"
    assert_all_stored(own.reader, load)


@pytest.mark.timeout(400)
def test_kafka_killed_and_frozen_twice_for_longer_than_the_ack_deadline(own):
    broker = own.broker.process
    faults = [(broker.kill, broker.start), (broker.pause, broker.resume)] * 2
    with Load(own.urls, own.key, pause_s=0.05) as load:
        for go_away, come_back in faults:
            load.wait_for(500)
            go_away()
            eventually(lambda: circuit(own) == "open", within_s=ACK_DEADLINE_S + 10)
            opened_at = time.monotonic()
            stays_away(ACK_DEADLINE_S)
            # Requests that were on their way when it opened wait for their own deadline.
            refused = [(took, status) for began, took, status in load.timed if began > opened_at]
            assert len(refused) > 20
            assert {status for _, status in refused} == {503}
            assert median(took for took, _ in refused) < 0.5, "503 at once"
            assert max(took for took, _ in refused) < ACK_DEADLINE_S / 3
            come_back()
            eventually(lambda: circuit(own) == "closed", within_s=60)
        load.wait_for(500)
    assert_all_stored(own.reader, load)
    assert load.answers.keys() <= {204, 503}


def test_a_database_frozen_in_mid_write_gets_every_point_once(own):
    with Load(own.urls, own.key) as load:
        load.wait_for(1000)
        own.database.process.pause()
        load.wait_for(2000)
        stays_away(12)
        own.database.process.resume()
        load.wait_for(1000)
    assert_all_stored(own.reader, load)


def test_sigterm_drains_gateway_and_consumer_and_loses_nothing(own):
    with Load(own.urls, own.key) as load:
        load.wait_for(2000)
        gateway, consumer = own.gateways[0].process, own.consumers[0].process
        consumer.restart()
        load.wait_for(1000)
        gateway.restart()
        load.wait_for(1000)
    assert_all_stored(own.reader, load)


def circuit(running):
    page = get(running.urls[0], "/metrics")
    state = page.split("\nstepclock_gateway_circuit_state ")[1].split("\n")[0]
    return {"0.0": "closed", "1.0": "half-open", "2.0": "open"}[state]


def stays_away(seconds):
    """The outage itself takes this long: there is nothing to wait for."""
    until = time.monotonic() + seconds
    eventually(lambda: time.monotonic() > until, within_s=seconds + 10)
