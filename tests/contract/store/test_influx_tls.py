"""InfluxDB over https, with an authority of our own: what is stored, and who is not trusted."""

import contextlib
import socket
from dataclasses import replace

import pytest

from adapters.influx.admin import InfluxAdmin
from adapters.influx.connection import InfluxConnection
from adapters.influx.reader import InfluxReader
from adapters.influx.writer import InfluxWriter
from native.process import Process
from schemas.line_protocol.precision import Precision
from schemas.store.protocols import StoreError
from tests.certificates import Authority

NAMESPACE = "secure"


@pytest.fixture
def secured(influx_process, tmp_path):
    """A server that was set up without TLS and now speaks nothing else."""
    authority = Authority.new(tmp_path / "authority")
    signed = authority.sign("influxdb")
    influxdb = influx_process()
    influxdb.process.stop()
    files = (f"--tls-cert={signed.certificate}", f"--tls-key={signed.key}")
    process = Process(
        "InfluxDB with TLS",
        [*influxdb.process._argv, *files],
        log_path=tmp_path / "tls.log",
        ready=lambda: listens(influxdb.port),
        env=influxdb.process._env,
    )
    process.start()
    with process:
        url = f"https://127.0.0.1:{influxdb.port}"
        yield InfluxConnection(url, influxdb.token, influxdb.org, authority.file)


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 5.0).close()
    except OSError:
        return False
    return True


def test_points_go_to_and_come_from_a_server_that_our_authority_vouches_for(secured):
    with InfluxAdmin(secured) as admin:
        admin.create_bucket(f"{NAMESPACE}/raw", None, None)
        admin.map_default(NAMESPACE, "raw", f"{NAMESPACE}/raw")
    with contextlib.closing(InfluxWriter(secured)) as writer:
        writer.write(NAMESPACE, "raw", b"tls,run=r loss=1 1000000000", Precision.NS)
    with contextlib.closing(InfluxReader(secured)) as reader:
        [point] = reader.points(NAMESPACE, "raw", "tls")
    assert point.fields == {"loss": 1.0}


def test_a_server_that_nobody_vouches_for_gets_neither_token_nor_points(secured):
    at = replace(secured, ca_file=None)
    with InfluxAdmin(at) as admin, pytest.raises(StoreError, match="CERTIFICATE_VERIFY_FAILED"):
        admin.buckets()
    for client in (InfluxWriter(at), InfluxReader(at)):
        with (
            contextlib.closing(client),
            pytest.raises(StoreError, match="STEPCLOCK_INFLUX_TLS_CA_FILE"),
        ):
            client.ping()
