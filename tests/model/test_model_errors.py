"""The errors of `model`: their messages, and that they survive the way between two processes."""

import copy

import pytest

from model.errors import (
    IMAGE_FAULTS,
    ArtefactError,
    DataError,
    ImageError,
    ManifestError,
    ModelError,
    RecipeError,
    UnknownName,
)


@pytest.mark.parametrize(
    "error",
    [
        DataError("x"),
        ManifestError("set", ["line 1: bad", "line 2: worse"]),
        ImageError("broken_image", "it ends early"),
        ArtefactError("x"),
        RecipeError("x"),
        UnknownName("hasher", "x", ["b", "a"]),
    ],
)
def test_a_copy_is_the_same_error(error: ModelError) -> None:
    """A copy goes through `__reduce__`, as does the way out of a worker process."""
    twin = copy.copy(error)
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)
    assert isinstance(twin, ModelError)


def test_messages_say_what_came_and_what_there_is() -> None:
    assert str(ImageError("empty_file", "0 bytes")) == "empty_file: 0 bytes"
    assert str(UnknownName("hasher", "x", ["b", "a"])) == "unknown hasher 'x'; known: a, b"
    assert str(UnknownName("hasher", "x", [])) == "unknown hasher 'x'; known: none"
    assert str(ManifestError("set", ["line 1: bad"])) == "set: 1 problem(s)\nline 1: bad"


def test_a_bad_manifest_is_a_data_error() -> None:
    assert issubclass(ManifestError, DataError)
    assert "too_many_pixels" in IMAGE_FAULTS
