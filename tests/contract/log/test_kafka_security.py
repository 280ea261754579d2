"""TLS and logins of Kafka, on a real broker: what is let in, and what the others are told."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
import uuid
import warnings
from contextlib import ExitStack
from dataclasses import replace

import pytest

from adapters.kafka.admin import KafkaAdmin, TopicSpec
from adapters.kafka.client import connect_admin, connect_consumer, connect_producer, errors
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.progress import KafkaProgress
from adapters.kafka.publisher import KafkaPublisher
from adapters.kafka.reader import KafkaReader
from adapters.kafka.source import KafkaSource
from native.ports import free_ports
from schemas.log.protocols import LogUnavailable
from tests.certificates import Authority
from tests.conftest import REAL, enter
from tests.contract.log.logs import WAIT_S, Member
from tests.deadline import eventually
from tests.e2e.pipeline.chain import chain
from tests.services import private_kafka

pytestmark = [pytest.mark.real, pytest.mark.slow]

USER, PASSWORD = "stepclock", "the-password-of-a-test"
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


WAYS = ("SASL_SSL with PLAIN", "SASL_SSL with SCRAM", "SSL with a certificate")


def _scram_user():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from kafka.admin import ScramMechanism, UserScramCredentialUpsertion  # noqa: PLC0415
    return UserScramCredentialUpsertion(
        USER, ScramMechanism.SCRAM_SHA_512, PASSWORD.encode(), iterations=4096
    )


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.new(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(tmp_path_factory, authority, pytestconfig):
    """A broker with listeners of three kinds: {protocol: connection that is let in}."""
    plain, sasl, mutual, control = free_ports(4)
    server, client = authority.sign("broker"), authority.sign("client")
    listeners = {
        "PLAINTEXT": f"127.0.0.1:{plain}",
        "SASL_SSL": f"127.0.0.1:{sasl}",
        "SSL": f"127.0.0.1:{mutual}",
    }
    named = ",".join(f"{name}://{at}" for name, at in listeners.items())
    settings = {
        "listeners": f"{named},CONTROLLER://127.0.0.1:{control}",
        "advertised.listeners": named,
        "controller.quorum.voters": f"1@127.0.0.1:{control}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
        "SASL_SSL:SASL_SSL,SSL:SSL",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(server.both),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.file),
        "listener.name.ssl.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{PLAIN} user_{USER}="{PASSWORD}";',
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": SCRAM,
    }
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("secured")
        enter(stack, private_kafka(folder, port=plain, settings=settings), "kafka", pytestconfig)
        pytestconfig.stash[REAL].found("kafka", "native")
        admin = connect_admin(listeners["PLAINTEXT"], timeout_s=10.0)
        admin.alter_user_scram_credentials([_scram_user()])
        admin.close()
        login = {"sasl_username": USER, "sasl_password": PASSWORD, "tls_ca_file": authority.file}
        yield {
            "PLAINTEXT": KafkaConnection(listeners["PLAINTEXT"]),
            "SASL_SSL with PLAIN": KafkaConnection(
                listeners["SASL_SSL"], "SASL_SSL", "PLAIN", **login
            ),
            "SASL_SSL with SCRAM": KafkaConnection(listeners["SASL_SSL"], "SASL_SSL", **login),
            "SSL with a certificate": KafkaConnection(
                listeners["SSL"],
                "SSL",
                tls_ca_file=authority.file,
                tls_cert_file=client.certificate,
                tls_key_file=client.key,
            ),
        }


@pytest.fixture
def topic(secured):
    name = f"secure-{uuid.uuid4().hex[:12]}"
    with KafkaAdmin(secured["PLAINTEXT"]) as admin:
        admin.create_topics([TopicSpec(name, 1, 1, None)])
    return name


@pytest.mark.parametrize("way", WAYS)
def test_everything_that_talks_to_kafka_is_let_in(secured, topic, way):
    at = secured[way]
    publisher = KafkaPublisher(at, topics=[topic])
    publisher.probe(20.0)
    big = b"x" * 300_000  # many TLS records, and more than a socket's buffer
    publisher.send(topic, 0, big, ()).result(WAIT_S)
    publisher.close(5.0)
    member = Member(KafkaSource(at, topic), [topic])
    assert [record.value for record in member.read(1)] == [big]
    member.commit()
    member.source.close()
    progress = KafkaProgress(at, topic, topic)
    assert list(progress.committed().values()) == [1]
    assert [record.value for record in progress.appended()] == [big]
    progress.close()
    assert [record.value for record in KafkaReader(at).read(topic)] == [big]


def connects(connection):
    for connect, more in (
        (connect_admin, {}),
        (connect_consumer, {}),
        (connect_producer, {"max_request_bytes": 1000}),
    ):
        yield lambda connect=connect, more=more: connect(connection, timeout_s=2.0, **more)


@pytest.mark.parametrize(
    ("way", "wrong", "says"),
    [
        ("SASL_SSL with PLAIN", {"sasl_password": "wrong"}, "STEPCLOCK_KAFKA_SASL_PASSWORD"),
        ("SASL_SSL with SCRAM", {"sasl_password": "wrong"}, "STEPCLOCK_KAFKA_SASL_PASSWORD"),
        ("SASL_SSL with PLAIN", {"sasl_username": "nobody"}, "STEPCLOCK_KAFKA_SASL_USERNAME"),
        (
            "SASL_SSL with PLAIN",
            {"sasl_mechanism": "SCRAM-SHA-256"},
            "STEPCLOCK_KAFKA_SASL_MECHANISM",
        ),
        ("SASL_SSL with PLAIN", {"tls_ca_file": None}, "STEPCLOCK_KAFKA_TLS_CA_FILE"),
        (
            "SASL_SSL with PLAIN",
            {"security_protocol": "PLAINTEXT"},
            "STEPCLOCK_KAFKA_SECURITY_PROTOCOL=PLAINTEXT",
        ),
        (
            "PLAINTEXT",
            {"security_protocol": "SSL"},
            "STEPCLOCK_KAFKA_SECURITY_PROTOCOL=SSL",
        ),
        (
            "SSL with a certificate",
            {"tls_cert_file": None, "tls_key_file": None},
            "STEPCLOCK_KAFKA_SECURITY_PROTOCOL=SSL",
        ),
    ],
)
def test_whoever_is_not_let_in_is_told_which_setting_to_look_at(secured, way, wrong, says):
    with pytest.raises(LogUnavailable) as caught:
        KafkaAdmin(replace(secured[way], **wrong), timeout_s=2.0).broker_count()
    assert says in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_every_kind_of_client_is_told(secured):
    for connect in connects(replace(secured["SASL_SSL with SCRAM"], sasl_password="wrong")):
        with pytest.raises(errors.KafkaError, match="STEPCLOCK_KAFKA_SASL_PASSWORD") as caught:
            connect()
        assert "wrong" not in str(caught.value)


def test_commands_take_the_login_from_the_environment(secured, topic, tmp_path):
    at = secured["SASL_SSL with SCRAM"]
    password = tmp_path / "password"
    password.write_text(PASSWORD + "\n")
    environment = {
        "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS": at.bootstrap_servers,
        "STEPCLOCK_KAFKA_SECURITY_PROTOCOL": at.security_protocol,
        "STEPCLOCK_KAFKA_SASL_MECHANISM": at.sasl_mechanism,
        "STEPCLOCK_KAFKA_SASL_USERNAME": USER,
        "STEPCLOCK_KAFKA_SASL_PASSWORD_FILE": str(password),
        "STEPCLOCK_KAFKA_TLS_CA_FILE": str(at.tls_ca_file),
        "STEPCLOCK_DATA_DIR": str(tmp_path),
    }

    def run(*arguments, **more):
        return subprocess.run(
            [sys.executable, "-m", "admin", *arguments],
            env=os.environ | environment | more,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    known = run("dlq", "list")
    assert "no topic 'stepclock.dlq'" in known.stderr, "it was let in, and nothing is provisioned"
    known = run("lag", "--every", "0.2")
    assert "run 'stepclock-server provision'" in known.stderr
    password.write_text("not it")
    for command in (("dlq", "list"), ("lag", "--every", "0.2")):
        unknown = run(*command)
        assert unknown.returncode == 1
        assert "STEPCLOCK_KAFKA_SASL_PASSWORD" in unknown.stderr
        assert "not it" not in unknown.stdout + unknown.stderr


def test_the_whole_chain_runs_over_tls_with_a_login_and_its_logs_hold_no_secret(
    secured, influx, tmp_path
):
    at = secured["SASL_SSL with SCRAM"]
    wrong_token = "canary-token-77b1"
    login = {
        "STEPCLOCK_KAFKA_SECURITY_PROTOCOL": at.security_protocol,
        "STEPCLOCK_KAFKA_SASL_USERNAME": USER,
        "STEPCLOCK_KAFKA_SASL_PASSWORD": PASSWORD,
        "STEPCLOCK_KAFKA_TLS_CA_FILE": str(at.tls_ca_file),
        "STEPCLOCK_LOG_LEVEL": "DEBUG",
    }
    namespace = f"sasl-{uuid.uuid4().hex[:8]}"
    with chain(tmp_path, at.bootstrap_servers, influx, namespace=namespace, **login) as running:

        def write(step):
            line = f"sasl,run=r loss=1,step={step}i".encode()
            headers = {"Authorization": f"Bearer {running.key}"}
            url = f"{running.urls[0]}/api/v2/write?bucket=raw"
            with urllib.request.urlopen(urllib.request.Request(url, line, headers)) as answer:
                return answer.status

        assert write(1) == 204
        stored = running.reader.points
        assert eventually(lambda: len(list(stored(namespace, "steps", "sasl"))) == 1)
        running.consumers[0].process.stop()
        running.add_consumer(STEPCLOCK_INFLUX_TOKEN=wrong_token)
        assert write(2) == 204
        log = tmp_path / "consumer-1.log"
        assert eventually(lambda: "store refuses us" in log.read_text())
        assert running.admin("lag", "--every", "0.2").returncode == 0
        secrets = [PASSWORD, wrong_token, influx.token, running.key.split("_", 2)[2]]
    said = {path.name: path.read_text(errors="replace") for path in tmp_path.glob("*.log")}
    assert len(said) == 3
    assert "DEBUG" in said["gateway-0.log"]
    found = [(name, s) for name, text in said.items() for s in secrets if s in text]
    assert found == []
