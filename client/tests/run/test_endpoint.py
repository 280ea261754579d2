import pytest

from stepclock.endpoint import check_endpoint, is_loopback


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("http://127.0.0.1:8787", "http://127.0.0.1:8787"),
        (" https://metrics.example/\n", "https://metrics.example"),
        ("https://metrics.example/behind/a/proxy/", "https://metrics.example/behind/a/proxy"),
        ("HTTP://Metrics_Gateway.default.svc.:80", "HTTP://Metrics_Gateway.default.svc.:80"),
        ("http://[::1]:8787", "http://[::1]:8787"),
        ("http://bücher.example", "http://bücher.example"),
    ],
)
def test_a_base_url_is_taken_without_what_stands_around_it(given, taken):
    assert check_endpoint(given) == taken


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("localhost:8787", "did you mean http://localhost:8787?"),
        ("metrics.example", "did you mean http://metrics.example?"),
        ("ftp://metrics.example", "like https://host:port, not 'ftp://metrics.example'"),
        ("", "like https://host:port"),
        ("http://", "a host's name or address"),
        ("http:///path", "a host's name or address"),
        ("http://a..b:1", "a host's name or address"),
        ("http://-a", "a host's name or address"),
        ("http://" + "a" * 64, "a host's name or address"),
        ("http://::1:8787", "IPv6 in brackets"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://[::g]:1", ""),
        ("http://host\\path", "a host's name or address"),
        ("http://host:0", "a port from 1 to 65535"),
        ("http://host:99999", "a port from 1 to 65535"),
        ("http://host:87a7", "a port from 1 to 65535"),
        ("http://host:1:2", "a port from 1 to 65535"),
        ("http://my host:8787", "without spaces"),
        ("http://ho\tst:8787", "without spaces"),
        ("http://host:8787/?org=x", "without ? and #"),
        ("http://host:8787#x", "without ? and #"),
        ("http://host:8787?", "without ? and #"),
    ],
)
def test_what_can_be_no_base_url_is_refused_with_what_would_be_right(given, said):
    with pytest.raises(ValueError, match="endpoint must be like") as refused:
        check_endpoint(given)
    assert said in str(refused.value)


@pytest.mark.parametrize("given", ["http://user:hush@host:1", "user:hush@host", "http://hush@host"])
def test_a_login_in_the_url_is_refused_and_not_shown(given):
    with pytest.raises(ValueError, match="STEPCLOCK_TOKEN") as refused:
        check_endpoint(given)
    assert "hush" not in str(refused.value)


def test_loopback_is_this_machine_and_nothing_that_only_begins_so():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback, ("", "localhost.example", "127.0.0.1.example", "10.0.0.1")))
