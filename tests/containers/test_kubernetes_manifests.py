"""The manifests agree with each other and with the settings; no cluster is asked."""

import re

import pytest
import yaml
from container_files import DOCKER, KNOWN, ROOT, documents, of_kind, pods, services, settings_in

WANTED = {
    "Namespace": 1, "ServiceAccount": 1, "ConfigMap": 1, "PersistentVolumeClaim": 2, "Deployment": 1,
    "Service": 1, "HorizontalPodAutoscaler": 1, "PodDisruptionBudget": 1, "CronJob": 1, "NetworkPolicy": 3,
    "Secret": 2,
}  # fmt: skip
ALLOWED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def labels_of_pods():
    templates = [document["spec"]["template"] for document in of_kind("Deployment")]
    templates += [document["spec"]["jobTemplate"]["spec"]["template"] for document in of_kind("CronJob")]
    return [template["metadata"]["labels"] for template in templates]


def test_everything_is_there_and_in_one_namespace():
    counts = {}
    for document in documents():
        counts[document["kind"]] = counts.get(document["kind"], 0) + 1
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "hashguard"
    assert counts == WANTED


def test_settings_are_those_that_there_are():
    assert settings_in(documents()) <= KNOWN
    (config,) = of_kind("ConfigMap")
    assert set(config["data"]) <= KNOWN
    assert all(isinstance(value, str) for value in config["data"].values())


def test_a_setting_that_nobody_reads_would_be_seen():
    assert settings_in({"env": [{"name": "HASHGUARD_COLOUR", "value": "red"}]}) - KNOWN == {
        "HASHGUARD_COLOUR"
    }


@pytest.mark.parametrize("name", sorted(pods()))
def test_a_pod_is_restricted_and_mounts_what_it_declares(name):
    pod = pods()[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    declared = {volume["name"]: volume for volume in pod["volumes"]}
    claims = {document["metadata"]["name"] for document in of_kind("PersistentVolumeClaim")}
    secrets = {document["metadata"]["name"] for document in of_kind("Secret")}
    for volume in declared.values():
        assert volume.get("persistentVolumeClaim", {"claimName": "hashguard-home"})["claimName"] in claims
        assert volume.get("secret", {"secretName": "hashguard"})["secretName"] in secrets
    for container in pod["containers"]:
        assert container["securityContext"] == ALLOWED
        assert {"requests", "limits"} == set(container["resources"])
        assert {mount["name"] for mount in container["volumeMounts"]} == set(declared)
        assert container["image"].split(":")[0] in {
            service["image"].split(":")[0] for service in services().values()
        }
        assert "latest" not in container["image"]


def test_probes_ask_what_the_service_answers():
    (container,) = pods()["hashguard"]["containers"]
    paths = {
        name: container[name]["httpGet"]["path"]
        for name in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert paths == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    drain = float(of_kind("ConfigMap")[0]["data"]["HASHGUARD_DRAIN_S"])
    pause = float(re.search(r"sleep\((\d+)\)", str(container["lifecycle"])).group(1))
    assert pods()["hashguard"]["terminationGracePeriodSeconds"] > drain + pause


def test_files_of_secrets_are_keys_of_the_template():
    keys = {document["metadata"]["name"]: set(document["stringData"]) for document in of_kind("Secret")}
    config = of_kind("ConfigMap")[0]["data"]
    files = {value for name, value in config.items() if name.endswith("_FILE")}
    assert files == {f"/run/secrets/hashguard/{name}" for name in keys["hashguard"]}
    (trainer,) = pods()["hashguard-trainer"]["containers"]
    assert f"--key-file=/run/secrets/hashguard/{keys['hashguard-trainer'].pop()}" in trainer["args"]


def test_the_template_holds_no_secret_and_nothing_else_is_one():
    for document in of_kind("Secret"):
        assert set(document["stringData"].values()) == {""}
        assert "data" not in document
    names = [
        path.name for path in (DOCKER / "kubernetes").glob("*.yaml") if "Secret" in path.read_text().split()
    ]
    assert names == ["secrets.template.yaml"]
    for path in DOCKER.rglob("*"):
        if path.is_file():
            assert not re.search(r"hg_[0-9a-f]{12}_|BEGIN [A-Z ]*PRIVATE KEY", path.read_text()), path


def test_selectors_find_the_pods_that_they_mean():
    selectors = [
        document["spec"]["selector"]["matchLabels"]
        for kind in ("Deployment", "PodDisruptionBudget")
        for document in of_kind(kind)
    ]
    selectors += [document["spec"]["selector"] for document in of_kind("Service")]
    selectors += [
        document["spec"]["podSelector"].get("matchLabels", {}) for document in of_kind("NetworkPolicy")
    ]
    for selector in selectors:
        assert any(selector.items() <= labels.items() for labels in labels_of_pods()), selector
    (scaler,) = of_kind("HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] in pods()
    assert scaler["spec"]["minReplicas"] > of_kind("PodDisruptionBudget")[0]["spec"]["minAvailable"]
    assert "replicas" not in of_kind("Deployment")[0]["spec"]


def test_the_trainer_never_runs_twice_and_asks_the_service_by_its_name():
    (job,) = of_kind("CronJob")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    (trainer,) = pods()["hashguard-trainer"]["containers"]
    assert f"--url=http://{of_kind('Service')[0]['metadata']['name']}" in trainer["args"]
    assert "--if-new-data" in trainer["args"]


def test_yaml_says_every_key_once():
    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader, node):
        keys = [loader.construct_object(key) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key twice"
        return yaml.SafeLoader.construct_mapping(loader, node, deep=True)

    Strict.add_constructor("tag:yaml.org,2002:map", lambda loader, node: mapping(loader, node))
    files = [ROOT / "docker-compose.yml", *DOCKER.rglob("*.yml"), *DOCKER.rglob("*.yaml")]
    assert len(files) >= 8
    for path in files:
        assert list(yaml.load_all(path.read_text(), Strict))
