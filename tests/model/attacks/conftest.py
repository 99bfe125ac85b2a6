"""Trained tiny models, one of each kind for all attack tests."""

import pytest
from tiny_hashers import Trained, World, draw_world, train_tiny


@pytest.fixture(scope="session")
def undefended() -> Trained:
    return train_tiny(1)


@pytest.fixture(scope="session")
def defended() -> Trained:
    return train_tiny(2, eps=16 / 255)


@pytest.fixture(scope="session")
def queries() -> World:
    return draw_world(16, 7)
