"""A work unit's file: read back as it was, and not believed when anything about it is damaged or strange."""

import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from model.errors import DataError
from model.evaluation.evidence import Attacked
from model.evaluation.specs import AttackSpec

ROWS, BITS = 4, 16


def made_unit(**changes):
    rng = np.random.default_rng(2)
    floats = {name: rng.random(ROWS) for name in ("saturated", "loss", "clean_loss", "linf", "l2", "ssim")}
    values = {
        "spec": AttackSpec("apgd:mainstay", "image", "linf", 8 / 255, 5, 1, 0, 10, ROWS, "suite"),
        "rows": np.arange(10, 10 + ROWS),
        "codes": rng.random((ROWS, BITS)) < 0.5,
        "queries": np.arange(ROWS),
        "never_gradient": np.array([True, False, False, True]),
        "had_gradient": True,
        **floats,
        "flips": np.arange(ROWS),
        "curve": rng.random((2, 6)),
        "seconds": 1.25,
        "budget": {"holds": True, "linf": 0.03},
        "images": rng.integers(0, 256, (ROWS, 8, 8, 3), dtype=np.uint8),
        "texts": ("a", "é ☃", "", 'q"'),
        "broken_limits": ("too much",),
        "extra": {"note": "x", "list": [1, 2]},
    }
    return Attacked(**{**values, **changes})


def same(a, b):
    for name in Attacked.__dataclass_fields__:
        left, right = getattr(a, name), getattr(b, name)
        if isinstance(left, np.ndarray):
            np.testing.assert_array_equal(left, right)
            assert left.dtype == right.dtype, name
        else:
            assert left == right, name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"images": None, "texts": None, "budget": None, "broken_limits": (), "extra": {}},
        {"linf": np.full(ROWS, np.nan), "curve": np.zeros((0, 0)), "had_gradient": False},
    ],
)
def test_a_unit_comes_back_as_it_was(tmp_path, changes):
    unit = made_unit(**changes)
    unit.save(tmp_path / "unit.safetensors")
    same(Attacked.load(tmp_path / "unit.safetensors"), unit)
    assert [path.name for path in tmp_path.iterdir()] == ["unit.safetensors"]


def test_saving_replaces_a_file_and_never_leaves_half_of_one(tmp_path, monkeypatch):
    path = tmp_path / "unit.safetensors"
    made_unit().save(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("model.evaluation.evidence.write_file", full)
    with pytest.raises(OSError, match="No space"):
        made_unit(seconds=9.0).save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.5, 0.9, -1])
def test_a_cut_file_is_not_believed(tmp_path, keep):
    path = tmp_path / "unit.safetensors"
    made_unit().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))] if isinstance(keep, float) else data[:keep])
    with pytest.raises(DataError, match=r"unit\.safetensors: wanted"):
        Attacked.load(path)


def test_a_missing_file_and_a_folder_are_not_believed(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(DataError, match="wanted"):
            Attacked.load(path)


def rewrite(path, arrays=None, meta=None, drop=()):
    """Write the file again with other arrays or other fields of its JSON."""
    held = load(path.read_bytes())
    fields = json.loads(held["meta"].tobytes())
    fields |= meta or {}
    held |= arrays or {}
    held["meta"] = np.frombuffer(json.dumps(fields).encode(), dtype=np.uint8)
    path.write_bytes(save({name: array for name, array in held.items() if name not in drop}))


@pytest.mark.parametrize(
    ("arrays", "meta", "drop"),
    [
        ({}, {"format": 99}, ()),
        ({}, {"spec": {}}, ()),
        ({}, {"spec": None}, ()),
        ({}, {"extra": []}, ()),
        ({}, {"texts": ["one"]}, ()),
        ({}, {"texts": [1, 2, 3, 4]}, ()),
        ({}, {"texts": 5}, ()),
        ({}, {"had_gradient": "yes"}, ()),
        ({}, {"seconds": "soon"}, ()),
        ({}, {}, ("codes",)),
        ({}, {}, ("meta",)),
        ({"codes": np.zeros((ROWS, BITS), dtype=np.uint8)}, {}, ()),
        ({"codes": np.zeros((ROWS + 1, BITS), dtype=bool)}, {}, ()),
        ({"rows": np.arange(ROWS)}, {}, ()),
        ({"rows": np.zeros(0, dtype=np.int64)}, {}, ()),
        ({"loss": np.zeros(ROWS, dtype=np.float32)}, {}, ()),
        ({"curve": np.zeros(3)}, {}, ()),
        ({"images": np.zeros((1, 8, 8, 3), dtype=np.uint8)}, {}, ()),
        ({"meta": np.frombuffer(b"[1, 2", dtype=np.uint8)}, None, ()),
    ],
)
def test_a_strange_file_is_not_believed(tmp_path, arrays, meta, drop):
    path = tmp_path / "unit.safetensors"
    made_unit().save(path)
    if meta is None:
        path.write_bytes(save({**load(path.read_bytes()), **arrays}))
    else:
        rewrite(path, arrays, meta, drop)
    with pytest.raises(DataError, match="wanted"):
        Attacked.load(path)
