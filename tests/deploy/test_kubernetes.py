"""The manifests are what the API takes, fit together, and a rolling update leaves everybody the time to go on."""

from pathlib import Path
from typing import Any

import pytest

from runstore_worker.config import WorkerConfig, parse_projects
from tests.deploy.secured import DEPLOY

WITHOUT = "install it by: pip install 'runstore[deploy]'"
yaml = pytest.importorskip("yaml", reason=f"PyYAML is not installed, {WITHOUT}")
FOLDER = DEPLOY / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
OLDEST, NEWEST = "1.28", None
"""The API versions of the manifests are in all releases from the oldest on; None is the newest that is known here."""


def documents(kind: str | None = None) -> list[dict[str, Any]]:
    found = [
        each for file in FILES if file.name != "kustomization.yaml" for each in yaml.safe_load_all(file.read_text())
    ]
    return [each for each in found if kind in {None, each["kind"]}]


def deployment(name: str) -> Any:
    [found] = [each for each in documents("Deployment") if each["metadata"]["name"] == name]
    return found["spec"]


def container(name: str) -> Any:
    [found] = deployment(name)["template"]["spec"]["containers"]
    return found


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_api_takes_every_manifest(version: str | None) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason=f"kubernetes-validate is not installed, {WITHOUT}")
    release = version or validate.latest_version()

    for document in documents():
        validate.validate(document, release, strict=True)
    with pytest.raises(Exception, match="replica"):
        validate.validate({**documents("Deployment")[0], "spec": {"replicaz": 1}}, release, strict=True)


def test_the_kustomization_names_every_file() -> None:
    named = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())

    assert {*named["resources"], "kustomization.yaml"} == {file.name for file in FILES}
    for generated in named["configMapGenerator"]:
        assert all((FOLDER / name).exists() for name in generated["files"])


def test_the_images_are_named_in_the_kustomization() -> None:
    named = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())

    assert {container(role)["image"] for role in ("gateway", "projector", "worker")} == {
        image["name"] for image in named["images"]
    }


def test_every_budget_scaler_and_service_finds_its_pods() -> None:
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in documents("Deployment")]

    for budget in documents("PodDisruptionBudget"):
        assert budget["spec"]["selector"]["matchLabels"] in labels
    for service in documents("Service"):
        assert service["spec"]["selector"] in labels
    for policy in documents("NetworkPolicy"):
        wanted = policy["spec"]["podSelector"].get("matchLabels", {}).items()
        assert any(wanted <= each.items() for each in labels)
    for scaler in documents("HorizontalPodAutoscaler"):
        assert "replicas" not in deployment(scaler["spec"]["scaleTargetRef"]["name"])


@pytest.mark.parametrize("role", ["gateway", "projector", "worker"])
def test_a_pod_is_confined_and_is_told_its_own_password(role: str) -> None:
    pod, only = deployment(role)["template"]["spec"], container(role)
    [redis] = [each for each in only["env"] if each["name"] == "RUNSTORE_REDIS_URL"]

    assert redis["valueFrom"]["secretKeyRef"] == {"name": "runstore-redis", "key": role}
    assert only["args"][0] == role
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert only["resources"]["limits"]["memory"]


def test_a_gateway_goes_only_when_others_answer_and_has_time_to_say_so() -> None:
    spec, only = deployment("gateway"), container("gateway")
    env = {each["name"]: each.get("value") for each in only["env"]}
    pause_s = int(only["lifecycle"]["preStop"]["exec"]["command"][1])

    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert only["readinessProbe"]["httpGet"]["path"] == "/readyz"
    # sockets, then what was begun, then open requests may take so long each
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= pause_s + 3 * float(
        env["RUNSTORE_GATEWAY_SHUTDOWN_S"] or 0
    )


@pytest.mark.parametrize("role", ["projector", "worker"])
def test_a_pod_is_alive_and_ready_by_what_its_own_port_says_and_prometheus_is_let_in(role: str) -> None:
    only = container(role)
    env = {each["name"]: each.get("value") for each in only["env"]}
    [port] = [each["containerPort"] for each in only["ports"] if each["name"] == "metrics"]
    [policy] = [each for each in documents("NetworkPolicy") if each["metadata"]["name"] == "numbers-for-prometheus"]

    assert env[f"RUNSTORE_{role.upper()}_METRICS_PORT"] == str(port)
    assert env[f"RUNSTORE_{role.upper()}_METRICS_HOST"] == "0.0.0.0"
    assert (
        only["livenessProbe"]["httpGet"] == only["startupProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    )
    assert only["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    assert port in {each["port"] for each in policy["spec"]["ingress"][0]["ports"]}


def test_a_worker_has_the_time_to_let_its_runs_end() -> None:
    grace_s = deployment("worker")["template"]["spec"]["terminationGracePeriodSeconds"]
    config = WorkerConfig()

    assert grace_s > config.grace_s + config.kill_after_s + config.last_words_s


def test_the_settings_of_the_manifests_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    import tomllib

    from runstore.config import Settings
    from runstore.gateway import GatewayConfig

    env = {each["name"]: each.get("value", "redis://h") for each in container("gateway")["env"]}
    settings = Settings.load(env, None)
    settings.check_variables({"gateway": GatewayConfig})
    place = Path(FOLDER / "runstore.toml")

    assert settings.record("gateway", GatewayConfig).connections_per_address == 0
    assert set(parse_projects(tomllib.loads(place.read_text()), place)) == {"forecasts"}
