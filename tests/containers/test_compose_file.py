"""docker-compose.yml: what it names is there, nothing secret is in it, and the order is by health."""

import json
import os
import re
import shutil
import subprocess

import pytest
import yaml
from container_files import DOCKER, KNOWN, ROOT, compose, services, settings_in

from service.api.metrics import Metrics

PROFILES = {
    None: {"prepare", "service"},
    "train": {"trainer"},
    "gpu": {"service-gpu"},
    "scale": {
        "scale-secrets", "scale-prepare", "replica-a", "replica-b", "nginx", "postgres", "etcd", "minio",
        "milvus", "prometheus", "grafana",
    },
}  # fmt: skip
OURS = (
    "prepare",
    "service",
    "trainer",
    "service-gpu",
    "scale-secrets",
    "scale-prepare",
    "replica-a",
    "replica-b",
)
NGINX = "/usr/sbin/nginx"


def volumes_of(service):
    return [volume.split(":") for volume in service.get("volumes", [])]


def test_every_service_is_in_its_profile():
    found = {}
    for name, service in services().items():
        for profile in service.get("profiles", [None]):
            found.setdefault(profile, set()).add(name)
    assert found == PROFILES


@pytest.mark.parametrize("name", sorted(services()))
def test_a_service_names_what_there_is(name):
    service, declared = services()[name], compose()["volumes"]
    for source, *_ in volumes_of(service):
        if source.startswith("./"):
            assert (ROOT / source).exists(), source
        elif not source.startswith("$"):
            assert source in declared, source
    if "build" in service:
        assert (ROOT / service["build"]["dockerfile"]).is_file()
    within = {None} | set(service.get("profiles", [None]))
    for other, wanted in service.get("depends_on", {}).items():
        assert set(services()[other].get("profiles", [None])) <= within, other
        assert wanted["condition"] in ("service_healthy", "service_completed_successfully")


def test_every_volume_is_used():
    used = {source for service in services().values() for source, *_ in volumes_of(service)}
    assert set(compose()["volumes"]) <= used


def test_who_waits_for_health_waits_for_somebody_who_tells_it():
    for service in services().values():
        for other, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                theirs = services()[other]
                assert "healthcheck" in theirs or "service" in theirs["build"]["dockerfile"], other


@pytest.mark.parametrize("name", OURS)
def test_ours_are_read_only_without_rights_and_with_limits(name):
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service["tmpfs"]


def test_everything_has_limits_and_ends_in_time():
    for name, service in services().items():
        assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"]), name
        assert "latest" not in service["image"], name
    assert services()["service"]["stop_grace_period"] == "30s"  # HASHGUARD_DRAIN_S is 20


def test_ports_are_open_to_this_machine_only():
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_secret_is_written_down():
    text = (ROOT / "docker-compose.yml").read_text()
    for service in services().values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|_KEY|_URL", name):
                assert name.endswith("_FILE"), name
                assert value.startswith("/run/secrets-of-scale/"), name
    assert not re.search(r"hg_[0-9a-f]{6}|://[^/\s]+:[^/\s$]+@", text)


def test_files_of_secrets_are_those_that_are_drawn():
    drawn = set(
        re.findall(r"\$place/([a-z_]+)|(?:for name in) ([a-z_ ]+);", (DOCKER / "secrets.sh").read_text())
    )
    names = {word for pair in drawn for part in pair for word in part.split()}
    used = set(re.findall(r"/run/secrets-of-scale/([a-z_]+)", (ROOT / "docker-compose.yml").read_text()))
    assert used == names
    keys = set(re.findall(r"^key ([a-z]+)", (DOCKER / "prepare.sh").read_text(), re.MULTILINE))
    assert keys == {"client", "admin"}
    assert "--key-file=/run/hashguard/admin" in services()["trainer"]["command"]


def test_settings_are_those_that_there_are():
    assert settings_in(compose()) <= KNOWN
    for name in ("docker/nginx/nginx.conf", "docker/prepare.sh"):
        assert set(re.findall(r"HASHGUARD_[A-Z_]+", (ROOT / name).read_text())) <= KNOWN


def test_metrics_of_dashboard_and_alerts_are_those_that_there_are():
    board = json.loads((DOCKER / "grafana/dashboards/hashguard.json").read_text())
    alerts = yaml.safe_load((DOCKER / "prometheus/alerts.yml").read_text())
    rules = [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    used = {name for query in rules + queries for name in re.findall(r"\bhashguard_[a-z_]+", query)}
    source = (ROOT / "service/api/metrics.py").read_text()
    known = set(re.findall(r'"(hashguard_[a-z_]+)"', source))
    assert len(known) > 10
    assert hasattr(Metrics, "render")
    for name in used:
        assert re.sub(r"_(total|bucket|count|sum|info)$", "", name) in known, name
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) >= 8


def test_prometheus_and_nginx_know_the_replicas():
    replicas = {f"{name}:8000" for name in services() if name.startswith("replica-")}
    scraped = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert {
        target for job in scraped for config in job["static_configs"] for target in config["targets"]
    } == replicas
    assert (
        set(re.findall(r"server (replica-\S+:8000)", (DOCKER / "nginx/nginx.conf").read_text())) == replicas
    )


@pytest.mark.system
def test_nginx_takes_its_file(tmp_path):
    if shutil.which("nginx") is None and not os.access(NGINX, os.X_OK):
        if os.environ.get("HASHGUARD_REQUIRE_SYSTEM") == "1":
            pytest.fail("HASHGUARD_REQUIRE_SYSTEM is set, but there is no nginx")
        pytest.skip("there is no nginx")
    text = (DOCKER / "nginx/nginx.conf").read_text()
    text = re.sub(r"replica-[ab]:8000", "127.0.0.1:1", text).replace("/tmp/", f"{tmp_path}/")
    text = text.replace("listen 8080", f"listen unix:{tmp_path}/socket")
    (tmp_path / "nginx.conf").write_text(text)
    command = [shutil.which("nginx") or NGINX, "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    checked = subprocess.run([*command, "-e", "stderr"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
