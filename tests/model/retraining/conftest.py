"""A home with a tiny live model, data like its own, and a service of which only the admin calls are there."""

import shutil

import pytest
import torch
from retrain_made import ATTACKS, NO_FLOORS, RECIPE, UNREACHABLE, Admin, draw_data

from model.errors import RetrainingError
from model.retraining.job import Order, retrain
from model.training.config import from_table
from model.training.display import Silent
from model.training.distributed import World
from model.training.fit import Order as Training
from model.training.fit import fit
from model.training.stopping import StopWish


@pytest.fixture(scope="session")
def live_folder(tmp_path_factory):
    """An artefact tiny/1, and the data that it was trained on beside it."""
    place = tmp_path_factory.mktemp("live")
    data = draw_data(place / "old")
    order = Training(data, place / "models", "tiny", 32, "none", from_table(RECIPE))
    outcome = fit(order, World(0, 1, torch.device("cpu")), Silent(), StopWish())
    assert outcome is not None
    return outcome.folder


@pytest.fixture(scope="session")
def new_data(tmp_path_factory):
    return draw_data(tmp_path_factory.mktemp("data") / "new", seed=1)


def order_for(home, new_data, **changes):
    """A retraining that is quick and that any model passes; keywords change it."""
    given = {
        "data": new_data,
        "home": home,
        "attacks": ATTACKS,
        "queries": 6,
        "floors": NO_FLOORS,
        "device": "cpu",
    }
    return Order(**(given | changes))


@pytest.fixture(scope="session")
def fresh(tmp_path_factory, live_folder):
    """A home folder with the live model alone."""
    home = tmp_path_factory.mktemp("fresh")
    shutil.copytree(live_folder, home / "models" / "tiny" / "1")
    return home


@pytest.fixture(scope="session")
def fresh_refused(tmp_path_factory, fresh, new_data):
    """One whose candidate has missed the floors, and the reason that was given."""
    home = copied(fresh, tmp_path_factory.mktemp("refused"))
    with pytest.raises(RetrainingError) as refusal:
        retrain(order_for(home, new_data, floors=UNREACHABLE), Admin(home / "models"), StopWish())
    return home, str(refusal.value)


@pytest.fixture(scope="session")
def fresh_accepted(tmp_path_factory, fresh, new_data):
    """One whose candidate has passed and is published, and whose service failed then."""
    home = copied(fresh, tmp_path_factory.mktemp("accepted"))
    with pytest.raises(RetrainingError, match="tiny/2 failed: the disk is full"):
        retrain(order_for(home, new_data), Admin(home / "models", fails="the disk is full"), StopWish())
    return home


def copied(source, place):
    return shutil.copytree(source, place / "home")


@pytest.fixture
def home(tmp_path, fresh):
    """A home folder with the live model; replaced in tests that begin later."""
    return copied(fresh, tmp_path)


@pytest.fixture
def admin(home):
    return Admin(home / "models")


@pytest.fixture
def retraining(home, new_data, admin):
    """Runs a retraining on the new data; keywords change the order."""

    def run(wish=None, **changes):
        return retrain(order_for(home, new_data, **changes), admin, StopWish() if wish is None else wish)

    return run


@pytest.fixture
def refused(home, fresh_refused):
    """The home after a refusal."""
    shutil.rmtree(home)
    shutil.copytree(fresh_refused[0], home)
    return fresh_refused[1]


@pytest.fixture
def accepted(home, fresh_accepted):
    """The home after a candidate has passed; the service does not have it yet."""
    shutil.rmtree(home)
    shutil.copytree(fresh_accepted, home)
