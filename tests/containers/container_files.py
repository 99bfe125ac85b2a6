"""The files of the containers as Python values: the compose file, Dockerfiles as instructions, manifests."""

import re
from pathlib import Path

import yaml

from service.settings import CallerSettings, Settings

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
SERVING = [path for path in DOCKERFILES if path.name.startswith("service")]
KNOWN = {f"HASHGUARD_{name.upper()}" for kind in (Settings, CallerSettings) for name in kind.model_fields}
"""Every environment variable that the settings read."""


def compose():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def services():
    return compose()["services"]


def instructions(path):
    """(name, arguments) of a Dockerfile's instructions, continued lines joined, comments left away."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in whole.splitlines() if line.strip()]


def documents():
    """All Kubernetes documents."""
    found = []
    for path in sorted((DOCKER / "kubernetes").glob("*.yaml")):
        found += list(yaml.safe_load_all(path.read_text()))
    return found


def of_kind(kind):
    return [document for document in documents() if document["kind"] == kind]


def pods():
    """The pod specs, by the name of what makes them."""
    found = {
        document["metadata"]["name"]: document["spec"]["template"]["spec"]
        for document in of_kind("Deployment")
    }
    for document in of_kind("CronJob"):
        found[document["metadata"]["name"]] = document["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return found


def settings_in(value):
    """Every HASHGUARD_ name anywhere in a value."""
    return set(re.findall(r"\bHASHGUARD_[A-Z_]+\b", yaml.safe_dump(value)))
