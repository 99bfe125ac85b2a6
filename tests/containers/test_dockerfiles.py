"""The Dockerfiles keep their promises as far as their text shows."""

import fnmatch
import importlib.util
import os
import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from container_files import DOCKER, DOCKERFILES, KNOWN, ROOT, SERVING, instructions

FORBIDDEN = ("apt-get install", "build-essential", "gcc", "curl |", "--extra-index-url", "--trusted-host")


def named(path, name):
    return [arguments for found, arguments in instructions(path) if found == name]


@pytest.fixture(params=DOCKERFILES, ids=lambda path: path.name)
def dockerfile(request):
    return request.param


def test_there_are_the_three():
    assert [path.name for path in DOCKERFILES] == [
        "service-gpu.Dockerfile",
        "service.Dockerfile",
        "trainer.Dockerfile",
    ]


def test_what_is_copied_exists_and_is_not_ignored(dockerfile):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = [line[1:] for line in ignored if line.startswith("!")]
    assert ignored[1] == "*"
    copied = [
        words for words in map(str.split, named(dockerfile, "COPY")) if not words[0].startswith("--from")
    ]
    assert copied
    for words in copied:
        for source in words[:-1]:
            assert (ROOT / source).exists(), source
            assert any(fnmatch.fnmatch(source, pattern) for pattern in let_in), source


def test_nothing_of_runs_secrets_or_the_repository_is_let_in():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:].split("/")[0] for line in ignored if line.startswith("!")}
    assert let_in == {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "requirements",
        "index",
        "model",
        "service",
        "docker",
    }


def test_both_stages_start_from_the_base_that_an_argument_pins(dockerfile):
    first = instructions(dockerfile)[0]
    assert first[0] == "ARG"
    assert first[1].startswith("BASE=python:3.11-slim")
    stages = named(dockerfile, "FROM")
    assert len(stages) == 2
    assert all(stage.startswith("${BASE} AS ") for stage in stages)


def test_torch_is_the_project_s_and_its_index_has_no_default(dockerfile):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (torch,) = [line for line in project["dependencies"] if line.startswith("torch==")]
    arguments = named(dockerfile, "ARG")
    assert f"TORCH={torch}" in arguments
    assert "TORCH_INDEX" in arguments
    assert f"VERSION={project['version']}" in arguments


def test_everything_else_is_locked_by_hash(dockerfile):
    lock = {"trainer": "trainer.lock", "service": "service.lock", "service-gpu": "service-gpu.lock"}[
        dockerfile.stem
    ]
    installs = [run for run in named(dockerfile, "RUN") if " install " in run and "-m pip" in run]
    assert len(installs) == 3
    assert "$TORCH" in installs[0]
    assert f"--no-deps --require-hashes -r /build/{lock}" in installs[1]
    assert installs[2].endswith("--no-deps --no-build-isolation /build")
    text = dockerfile.read_text()
    assert not [word for word in FORBIDDEN if word in text]
    assert "PIP_ONLY_BINARY=:all:" in text


@pytest.mark.parametrize("path", SERVING, ids=lambda path: path.name)
def test_a_serving_image_has_no_training_extra_and_answers_for_its_health(path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = [re.split(r"[<>=\[]", line)[0] for line in project["optional-dependencies"]["training"]]
    (lock,) = [words.split()[0] for words in named(path, "COPY") if words.startswith("requirements/")]
    locked = {line.split("==")[0] for line in (ROOT / lock).read_text().splitlines() if "==" in line}
    assert locked.isdisjoint(set(extra) - {"tqdm"})  # tqdm: the tokenizers' hub client wants it too
    (check,) = named(path, "HEALTHCHECK")
    assert "healthy.py" in check
    assert "STOPSIGNAL" in {name for name, _ in instructions(path)}


def test_it_runs_as_somebody_and_hears_signals(dockerfile):
    assert named(dockerfile, "USER") == ["10001:10001"]
    assert named(dockerfile, "ENTRYPOINT") == ['["hashguard"]']
    assert named(dockerfile, "CMD")[-1].startswith("[")
    names = [name for name, _ in instructions(dockerfile)]
    assert names.index("USER") > max(place for place, name in enumerate(names) if name == "RUN")


def test_it_sets_only_settings_that_there_are(dockerfile):
    assert set(re.findall(r"HASHGUARD_[A-Z_]+", dockerfile.read_text())) <= KNOWN


@pytest.mark.parametrize("script", sorted(DOCKER.glob("*.sh")), ids=lambda path: path.name)
def test_the_scripts_are_shell(script):
    assert script.read_text().startswith("#!/bin/sh\n")
    assert re.search(r"^set -e?u$", script.read_text(), re.MULTILINE)
    subprocess.run(["sh", "-n", str(script)], check=True, capture_output=True)


def test_secrets_of_the_scale_profile_are_drawn_once_and_kept(tmp_path):
    def draw(backend):
        path = os.pathsep.join([str(Path(sys.executable).parent), os.defpath])
        environment = {"PATH": path, "INDEX_BACKEND": backend}
        command = ["sh", str(DOCKER / "secrets.sh"), str(tmp_path)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert draw("milvus").returncode == 0
    first = {path.name: path.read_text().strip() for path in tmp_path.iterdir()}
    assert first["index_url"] == "http://milvus:19530"
    assert (
        first["catalog_url"] == f"postgresql://hashguard:{first['postgres_password']}@postgres:5432/hashguard"
    )
    assert len(first["grafana_password"]) >= 40
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
    assert draw("pgvector").returncode == 0
    again = {path.name: path.read_text().strip() for path in tmp_path.iterdir()}
    assert again == first | {"index_url": first["catalog_url"]}
    refused = draw("paper")
    assert refused.returncode == 2
    assert "wanted milvus or pgvector, got paper" in refused.stderr


def healthy():
    spec = importlib.util.spec_from_file_location("healthy", DOCKER / "healthy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.mark.parametrize(("status", "ended"), [(200, 0), (503, 1)])
def test_the_health_check_ends_as_readyz_says(status, ended, capsys):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b'{"reasons": ["draining"]}')

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request).start()
        assert healthy()(f"http://127.0.0.1:{server.server_port}/readyz") == ended
    assert ("draining" in capsys.readouterr().err) == (ended == 1)


def test_the_health_check_fails_without_a_service(capsys):
    assert healthy()("http://127.0.0.1:1/readyz") == 1
    assert "no answer" in capsys.readouterr().err
