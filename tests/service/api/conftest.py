"""One real application behind a test client for the tests that do not change it, and homes for the others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parent))

from tiny import copy_model, fill, make_model, running, settings_for

from service.api.app import create_app
from service.wiring import build_application


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, `tiny/1`."""
    return make_model(tmp_path_factory.mktemp("artefacts"))


@pytest.fixture
def home(tmp_path: Path, model_folder: Path) -> Path:
    """A home folder with the tiny model."""
    folder = tmp_path / "home"
    copy_model(model_folder, folder)
    return folder


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[TestClient]:
    """A client of a real application whose corpus is `pair-0` to `pair-4`; tests leave it as it was."""
    folder = tmp_path_factory.mktemp("shared") / "home"
    copy_model(model_folder, folder)
    settings = settings_for(folder)
    app = create_app(build_application(settings), settings)
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        fill(client)
        yield client


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[httpx.Client]:
    """A client of a real server process with the same corpus."""
    folder = tmp_path_factory.mktemp("server") / "home"
    copy_model(model_folder, folder)
    with running(folder, device="cpu") as (client, _):
        fill(client)
        yield client
