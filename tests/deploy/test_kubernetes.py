"""The manifests are valid, fit each other, and start what the CLI knows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import psycopg
import pytest
import yaml

from pgqueue import PgQueue
from pgqueue.cli.values import DURATION
from tests.deploy.commands import check, is_known
from tests.deploy.test_prometheus import RULES

FOLDER = Path(__file__).parents[2] / "deploy/kubernetes"
OLDEST = "1.30"  # The first in which preStop can sleep.


def documents() -> Iterator[dict[str, Any]]:
    for file in sorted(FOLDER.glob("*.yaml")):
        yield from yaml.safe_load_all(file.read_text(encoding="utf-8"))


RESOURCES = {(one["kind"], one.get("metadata", {}).get("name")): one for one in documents()}
OWN_KINDS = [
    pytest.param(one, id=f"{kind} {name}")
    for (kind, name), one in RESOURCES.items()
    if one["apiVersion"].partition("/")[0] in ("v1", "apps", "batch", "autoscaling", "policy")
]
PODS = [
    pytest.param(one["spec"]["template"], id=name)
    for (kind, name), one in RESOURCES.items()
    if kind in ("Deployment", "Job")
]


def container(pod: dict[str, Any]) -> dict[str, Any]:
    [found] = pod["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def variables(pod: dict[str, Any]) -> dict[str, str | None]:
    return {one["name"]: one.get("value") for one in container(pod)["env"]}


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("resource", OWN_KINDS)
def test_resources_are_what_kubernetes_wants(resource: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(resource, version, strict=True)


def test_the_kustomization_has_what_every_cluster_takes() -> None:
    customization = RESOURCES["Kustomization", None]
    assert set(customization["resources"]) == {"migrate.yaml", "worker.yaml", "scheduler.yaml", "web.yaml"}
    [image] = customization["images"]
    [settings] = customization["configMapGenerator"]
    assert all(is_known(line.partition("=")[0]) for line in settings["literals"])
    for parameter in PODS:
        [pod] = parameter.values
        assert isinstance(pod, dict)
        assert container(pod)["image"] == image["name"]
        assert container(pod)["envFrom"] == [{"configMapRef": {"name": settings["name"]}}]


@pytest.mark.parametrize("pod", PODS)
def test_pods_start_what_the_cli_knows(pod: dict[str, Any]) -> None:
    check(" ".join(container(pod)["args"]))
    for name, value in variables(pod).items():
        assert is_known(name)
        assert value is not None or name in ("PGQUEUE_DSN", "PGQUEUE_WORKER_NAME")


@pytest.mark.parametrize("pod", PODS)
def test_pods_have_no_rights_that_they_do_not_need(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["automountServiceAccountToken"] is False
    # Or a Service named pgqueue-web sets PGQUEUE_WEB_PORT.
    assert spec["enableServiceLinks"] is False
    assert container(pod)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container(pod)["resources"]["limits"]["memory"]


@pytest.mark.parametrize("pod", PODS)
def test_probes_and_volumes_are_there(pod: dict[str, Any]) -> None:
    ports = {port["name"]: port["containerPort"] for port in container(pod).get("ports", [])}
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        if "httpGet" in container(pod).get(kind, {}):
            assert container(pod)[kind]["httpGet"]["port"] in ports
    options = {name: value for name, value in variables(pod).items() if name.endswith("_PORT")}
    assert {str(port) for port in ports.values()} == set(options.values())
    volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
    assert {mount["name"] for mount in container(pod).get("volumeMounts", [])} == volumes


def test_a_worker_is_killed_later_than_it_needs() -> None:
    pod = RESOURCES["Deployment", "pgqueue-worker"]["spec"]["template"]
    timeout = DURATION.convert(variables(pod)["PGQUEUE_WORKER_SHUTDOWN_TIMEOUT"], None, None)
    assert pod["spec"]["terminationGracePeriodSeconds"] >= timeout + 10


@pytest.mark.parametrize("name", ["pgqueue-worker", "pgqueue-scheduler"])
def test_each_probe_asks_its_own_question(name: str) -> None:
    pod = RESOURCES["Deployment", name]["spec"]["template"]
    probes = [container(pod)[kind]["httpGet"]["path"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert probes == ["/startedz", "/healthz", "/readyz"]


@pytest.mark.parametrize("name", ["pgqueue-worker", "pgqueue-scheduler", "pgqueue-web"])
def test_selectors_find_the_pods_of_their_deployment(name: str) -> None:
    deployment = RESOURCES["Deployment", name]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    for kind in ("Service", "PodDisruptionBudget"):
        if found := RESOURCES.get((kind, name)):
            selector = found["spec"]["selector"]
            assert selector.get("matchLabels", selector) == labels
    monitor = RESOURCES["PodMonitor", "pgqueue"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} == {"metrics"}


def test_both_autoscalers_scale_the_workers_alike() -> None:
    hpa, keda = (RESOURCES[kind, "pgqueue-worker"]["spec"] for kind in ("HorizontalPodAutoscaler", "ScaledObject"))
    assert hpa["scaleTargetRef"]["name"] == keda["scaleTargetRef"]["name"] == "pgqueue-worker"
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (keda["minReplicaCount"], keda["maxReplicaCount"])
    [metric], [trigger] = hpa["metrics"], keda["triggers"]
    target = int(metric["external"]["target"]["averageValue"])
    assert target == int(trigger["metadata"]["targetQueryValue"])
    slots = int(container(RESOURCES["Deployment", "pgqueue-worker"]["spec"]["template"])["args"][-1].split(":")[1])
    assert target < slots
    name = metric["external"]["metric"]["name"]
    assert any(rule.get("record") == f"queue:{name}:sum" for rule in RULES)


def test_the_scaled_object_is_as_keda_reads_it() -> None:
    keda, access = RESOURCES["ScaledObject", "pgqueue-worker"], RESOURCES["TriggerAuthentication", "pgqueue-viewer"]
    assert keda["apiVersion"] == access["apiVersion"] == "keda.sh/v1alpha1"
    [trigger] = keda["spec"]["triggers"]
    assert trigger["type"] == "postgresql"
    assert set(trigger["metadata"]) == {"query", "targetQueryValue"}
    assert trigger["authenticationRef"]["name"] == access["metadata"]["name"]
    assert [one["parameter"] for one in access["spec"]["secretTargetRef"]] == ["connection"]
    bounds = {int(bound) for bound in re.findall(r"limit (\d+)", trigger["metadata"]["query"])}
    assert min(bounds) >= keda["spec"]["maxReplicaCount"] * int(trigger["metadata"]["targetQueryValue"])


def test_the_scaled_objects_query_counts_what_runs_or_could_by_indexes(dsn: str) -> None:
    query = RESOURCES["ScaledObject", "pgqueue-worker"]["spec"]["triggers"][0]["metadata"]["query"]
    app = PgQueue(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "insert into pgqueue.jobs (queue, task, state, run_at) "
            "select 'default', 'later', 'scheduled', now() + interval '1 day' from generate_series(1, 50000)"
        )
        conn.execute("analyze pgqueue.jobs")
        for count in range(1, 4):
            app.enqueue("now", {})
            assert conn.execute(query).fetchone() == (count,)
        app.enqueue("now", {}, queue="other")
        plan = "\n".join(line for (line,) in conn.execute(f"explain {query}".encode()))
        assert "Seq Scan on jobs" not in plan
        app.queues["default"].pause()
        assert conn.execute(query).fetchone() == (0,)
    app.close()
