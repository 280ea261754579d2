import gzip

from bench.isolation.isolation import TROUBLES, Phase, Waited, _section


def phase(name, stored_s, failures=(), answers=None):
    waited = [Waited(0.01, stored_s) for _ in range(100)]
    return Phase(name, waited, list(failures), 1.5, answers or {})


def test_a_tenant_that_is_felt_by_another_is_a_failure():
    section = _section(
        [phase("alone", 0.3), phase("mild", 0.59), phase("rude", 0.6), phase("alone", 0.3)], 10.0
    )
    assert section.failures == [
        "rude: p99 until stored is 2.0 times what it is alone; expected less than 2"
    ]
    assert [row[6] for row in section.tables[0].rows] == ["1.00", "1.97", "2.00", "1.00"]


def test_writes_that_failed_are_failures_each_kind_once():
    beside = phase("rude", 0.3, ["a write got 503"] * 7, {"400": 1200})
    section = _section([phase("alone", 0.3), beside, phase("alone", 0.3)], 10.0)
    assert section.failures == ["rude: a write got 503"]
    assert section.tables[0].rows[1][-1] == "400: 1,200"
    assert section.tables[0].rows[2][0] == "alone again"


def test_every_trouble_has_a_name_of_its_own_and_hostile_json_is_small_until_it_is_read():
    assert len({trouble.name for trouble in TROUBLES}) == len(TROUBLES)
    packed = [trouble.make() for trouble in TROUBLES if trouble.gzipped]
    assert packed
    for body in packed:
        assert len(body) < 64 * 1024
        assert len(gzip.decompress(body)) > 500 * len(body)
