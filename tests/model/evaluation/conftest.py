"""Small trained models and the evidence of attacks on them, made once for all evaluation tests."""

from pathlib import Path

import pytest
from small_models import draw_folder, load_small, train_small
from small_suite import EVERYTHING, attacked

from model.attacks.subjects import Subject
from model.data.manifest import Manifest, read_manifest
from model.evaluation.evidence import ModelEvidence


def pytest_itemcollected(item: pytest.Item) -> None:
    """All tests on the small models run in one process, so that they are trained once."""
    if "small_data" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.xdist_group("small-models"))


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest folder of 800 items."""
    return draw_folder(tmp_path_factory.mktemp("small") / "scenes")


@pytest.fixture(scope="session")
def small_manifest(small_data: Path) -> Manifest:
    return read_manifest(small_data)


@pytest.fixture(scope="session")
def undefended_folder(small_data: Path) -> Path:
    """The artefact's folder of a model trained for some four seconds."""
    return train_small(small_data, small_data.parent / "models", 0)


@pytest.fixture(scope="session")
def surrogate_folder(small_data: Path) -> Path:
    """The same with another seed."""
    return train_small(small_data, small_data.parent / "models", 1)


@pytest.fixture(scope="session")
def undefended(undefended_folder: Path) -> Subject:
    return load_small(undefended_folder)


@pytest.fixture(scope="session")
def surrogate(surrogate_folder: Path) -> Subject:
    return load_small(surrogate_folder)


@pytest.fixture(scope="session")
def healthy(undefended: Subject, surrogate: Subject, small_manifest: Manifest) -> ModelEvidence:
    """The undefended model under the whole small suite: nothing is hidden, so every gate must hold."""
    return attacked(undefended, small_manifest, EVERYTHING, label="undefended", surrogates=[surrogate])
