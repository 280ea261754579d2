"""The manifests for Kubernetes: they fit together, the image, and the settings."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from adapters.settings import unknown_variables
from consumers.settings import ConsumerSettings
from ingest.settings import GatewaySettings
from janitor.settings import JanitorSettings
from schemas.log.protocols import topic_of

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy/kubernetes"
PAGE = (ROOT / "docs/kubernetes.md").read_text("utf-8")

#: Settings of what each workload runs; `provision` takes those of a consumer's log and store.
SETTINGS = {
    "gateway": GatewaySettings,
    "consumer": ConsumerSettings,
    "janitor": JanitorSettings,
    "provision": ConsumerSettings,
}
PORTS = {
    "gateway": GatewaySettings.model_fields["port"].default,
    "consumer": ConsumerSettings.model_fields["probe_port"].default,
    "janitor": JanitorSettings.model_fields["probe_port"].default,
}
PARTITIONS = 12

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not installed"
)


def documents(name: str) -> Iterator[dict]:
    return yaml.safe_load_all((FOLDER / name).read_text("utf-8"))


def environment() -> dict[str, str]:
    lines = (FOLDER / "settings.env").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


KUSTOMIZATION = next(documents("kustomization.yaml"))
OBJECTS = [each for name in KUSTOMIZATION["resources"] for each in documents(name)]
WORKLOADS = {
    each["metadata"]["name"]: each
    for each in OBJECTS
    if each["kind"] in {"Deployment", "StatefulSet", "Job"}
}
SCALED = next(documents("autoscaling/consumer.yaml"))


def pod(name: str) -> dict:
    return WORKLOADS[name]["spec"]["template"]["spec"]


def container(name: str) -> dict:
    (found,) = pod(name)["containers"]
    return found


def test_every_process_has_a_workload():
    assert set(WORKLOADS) == set(SETTINGS)
    for name in WORKLOADS:
        assert container(name)["args"] == [name]


def test_only_settings_that_exist_are_set():
    set_by_name = {
        each["name"]: "" for name in WORKLOADS for each in container(name).get("env", [])
    }
    assert set_by_name
    named = dict.fromkeys(re.findall(r"\bSTEPCLOCK_[A-Z_]+", PAGE), "")
    known = [*SETTINGS.values()]
    assert unknown_variables({**environment(), **set_by_name, **named}, known) == []


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_service_of_the_cluster_sets_our_variables(name):
    assert pod(name)["enableServiceLinks"] is False
    assert container(name)["envFrom"] == [{"configMapRef": {"name": "settings"}}]


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_pod_runs_as_root_writes_to_its_image_or_may_ask_the_cluster(name):
    assert pod(name)["automountServiceAccountToken"] is False
    context = pod(name)["securityContext"]
    assert context["runAsNonRoot"] is True
    assert re.search(rf"^USER {context['runAsUser']}:", _dockerfile(), re.MULTILINE)
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container(name)["resources"]["limits"]


@pytest.mark.parametrize("name", PORTS)
def test_probes_and_prometheus_ask_the_port_that_the_process_has(name):
    ports = {each["name"]: each["containerPort"] for each in container(name)["ports"]}
    assert list(ports.values()) == [PORTS[name]]
    probes = {kind: container(name).get(f"{kind}Probe") for kind in ("startup", "liveness")}
    for probe in probes.values():
        assert probe["httpGet"]["path"] == "/livez"
        assert probe["httpGet"]["port"] in ports
    annotations = WORKLOADS[name]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(PORTS[name])
    for each in OBJECTS:
        if each["kind"] == "Service" and each["metadata"]["name"] == name:
            (port,) = each["spec"]["ports"]
            assert port["targetPort"] in ports


def test_a_gateway_is_ready_by_readyz_which_does_not_fail_with_kafka():
    assert container("gateway")["readinessProbe"]["httpGet"]["path"] == "/readyz"


@pytest.mark.parametrize("name", ["gateway", "consumer"])
def test_a_pod_has_time_to_drain(name):
    pause = container(name).get("lifecycle", {}).get("preStop", {}).get("exec", {})
    paused_s = float(pause["command"][1]) if pause else 0.0
    drain_s = SETTINGS[name].model_fields["drain_s"].default
    assert pod(name)["terminationGracePeriodSeconds"] >= paused_s + drain_s + 5


def test_the_gateways_share_of_a_limit_is_that_of_their_number():
    assert environment()["STEPCLOCK_REPLICAS"] == str(WORKLOADS["gateway"]["spec"]["replicas"])


def test_the_files_that_settings_name_are_mounted():
    token = Path(environment()["STEPCLOCK_INFLUX_TOKEN_FILE"])
    for name in WORKLOADS:
        mounts = {each["mountPath"]: each["name"] for each in container(name)["volumeMounts"]}
        volumes = {each["name"]: each for each in pod(name)["volumes"]}
        assert set(mounts.values()) == set(volumes)
        assert volumes[mounts[str(token.parent)]]["secret"]["secretName"] == "stepclock-influx"
        if name != "consumer":
            assert volumes[mounts["/data"]]["secret"]["secretName"] == "stepclock-keys"
    assert "ENV PATH" in _dockerfile()
    assert "STEPCLOCK_DATA_DIR=/data" in _dockerfile()
    assert f"--from-file={token.name}=" in PAGE
    assert "secret generic stepclock-keys --from-file=keys.toml" in PAGE


def test_selectors_find_the_pods_that_they_are_meant_for():
    for each in OBJECTS:
        name = each["metadata"]["name"]
        selector = each["spec"].get("selector")
        if selector is None:
            assert each["kind"] == "Job"
            continue
        wanted = selector.get("matchLabels", selector)
        assert wanted.items() <= WORKLOADS[name]["spec"]["template"]["metadata"]["labels"].items()


def test_consumers_never_outnumber_the_partitions():
    threads = ConsumerSettings.model_fields["threads"].default
    assert SCALED["spec"]["maxReplicaCount"] * threads <= PARTITIONS
    assert WORKLOADS["consumer"]["spec"]["replicas"] <= SCALED["spec"]["maxReplicaCount"]


def test_the_autoscaler_asks_for_the_lag_of_our_group_where_the_consumers_read():
    target = SCALED["spec"]["scaleTargetRef"]
    assert WORKLOADS[target["name"]]["kind"] == target["kind"]
    (trigger,) = SCALED["spec"]["triggers"]
    asked = trigger["metadata"]
    assert asked["consumerGroup"] == ConsumerSettings.model_fields["consumer_group"].default
    assert asked["topic"] == topic_of("raw")
    assert asked["bootstrapServersFromEnv"] in environment()


@needs_kubectl
def test_kustomize_builds_the_base_and_an_overlay_as_the_page_shows(tmp_path):
    overlay = re.search(r"```yaml\n(apiVersion: kustomize.*?)```", PAGE, re.DOTALL)
    component = re.search(r"```yaml\n(components: .*?)```", PAGE, re.DOTALL)
    assert overlay
    assert component
    (tmp_path / "stepclock").mkdir()
    shutil.copytree(FOLDER, tmp_path / "stepclock/deploy/kubernetes")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "settings.env").write_text("STEPCLOCK_REPLICAS=3\n")
    (mine / "kustomization.yaml").write_text(overlay[1] + component[1])
    built = subprocess.run(
        ["kubectl", "kustomize", str(mine)], capture_output=True, text=True, check=True, timeout=60
    )
    objects = list(yaml.safe_load_all(built.stdout))
    kinds = [each["kind"] for each in objects]
    assert sorted(kinds) == sorted(
        [*(each["kind"] for each in OBJECTS), "ConfigMap", "ScaledObject"]
    )
    (settings,) = [each for each in objects if each["kind"] == "ConfigMap"]
    assert settings["data"] == {**environment(), "STEPCLOCK_REPLICAS": "3"}
    (consumer,) = [each for each in objects if each["kind"] == "StatefulSet"]
    assert "replicas" not in consumer["spec"]
    images = {
        each["spec"]["template"]["spec"]["containers"][0]["image"]
        for each in objects
        if "template" in each.get("spec", {})
    }
    assert images == {"REGISTRY/stepclock:0.1.0"}


def _dockerfile() -> str:
    return (ROOT / "deploy/Dockerfile").read_text("utf-8")
