"""Applications over a temporary home with fake models, a real catalog, real indexes and real blobs."""

import pytest
from fake_homes import settings_for, thread_launcher
from fake_models import FakeShelf

from service.wiring import build_application, open_parts


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def shelf(home):
    shelf = FakeShelf(home / "models")
    shelf.publish("1")
    return shelf


@pytest.fixture
def make_app(home, shelf):
    """Builds and starts applications over the home; closes them in the end."""
    made = []

    def make(started=True, launch=None, **changes):
        settings = settings_for(home, **changes)
        app = build_application(settings, shelf, launch or thread_launcher(settings))
        made.append(app)
        if started:
            app.start()
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def app(make_app):
    return make_app()


@pytest.fixture(scope="module")
def quiet_app(tmp_path_factory):
    """One application (and its home) for the tests of a module that change nothing."""
    home = tmp_path_factory.mktemp("quiet")
    shelf = FakeShelf(home / "models")
    shelf.publish("1")
    app = build_application(settings_for(home), shelf)
    app.start()
    yield app, home
    app.close()


@pytest.fixture
def parts(home, shelf):
    parts = open_parts(settings_for(home), shelf)
    yield parts
    parts.close()
