"""Recipes: what is accepted, what is refused and how it is said."""

import pytest

from model.errors import RecipeError, UnknownName
from model.hashers.registry import resolve
from model.losses.objective import LossSettings
from model.training.config import digest, from_table, load_recipe, shipped, to_table


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_are_valid_and_named_after_their_file(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert set(recipe.architecture) <= {"image", "text"}
    assert from_table(to_table(recipe)) == recipe


def test_the_default_recipe_is_the_small_cnn_at_64_px():
    image = load_recipe("default").architecture["image"]
    assert image["kind"] == "residual_cnn"
    assert resolve({"image": image})["image"]["size"] == 64


def test_everything_left_out_has_a_default():
    recipe = from_table({})
    assert recipe.loss == LossSettings()
    assert recipe.schedule.epochs > 0
    assert recipe.precision == "auto"


def test_a_recipe_survives_the_manifest(recipe):
    table = to_table(recipe)
    assert from_table(table) == recipe
    assert digest(from_table(table)) == digest(recipe)
    assert digest(recipe.with_changes(seed=1)) != digest(recipe)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"epochs": 3}, "epochs"),
        ({"schedule": {"epoch": 3}}, "epoch"),
        ({"schedule": {"epochs": 0}}, "schedule.epochs"),
        ({"schedule": {"epochs": 2.5}}, "schedule.epochs"),
        ({"schedule": {"epochs": True}}, "schedule.epochs"),
        ({"schedule": {"select": "luck"}}, "schedule.select: wanted one of best, last, got 'luck'"),
        ({"schedule": 3}, "schedule"),
        ({"optimiser": {"rate": "fast"}}, "optimiser.rate"),
        ({"optimiser": {"rate": float("nan")}}, "optimiser.rate"),
        ({"optimiser": {"rate": -1.0}}, "optimiser.rate"),
        ({"optimiser": {"rates": {"image": "slow"}}}, "optimiser.rates.image"),
        ({"optimiser": {"rates": {"image": True}}}, "optimiser.rates.image"),
        ({"optimiser": {"rates": {"image": -1}}}, "optimiser.rates.image"),
        ({"data": {"texts": "all"}}, "data.texts"),
        ({"data": {"validation": 0.9}}, "data.validation"),
        ({"loss": {"inter": -1.0}}, "loss.inter"),
        ({"precision": "fp8"}, "precision"),
        ({"seed": -1}, "seed"),
        ({"architecture": [1]}, "architecture"),
    ],
)
def test_refusals_name_the_key(table, said):
    with pytest.raises(RecipeError, match=said.replace("[", r"\[")):
        from_table(table)


def test_an_unknown_key_is_answered_with_the_known_ones():
    with pytest.raises(RecipeError, match=r"warmup.*warm_up"):
        from_table({"schedule": {"warmup": 0.1}})


def test_the_command_lines_numbers_are_checked_like_the_files(recipe):
    changed = recipe.with_changes(seed=7, epochs=9)
    assert (changed.seed, changed.schedule.epochs) == (7, 9)
    assert recipe.with_changes() == recipe
    with pytest.raises(RecipeError, match=r"schedule.epochs"):
        recipe.with_changes(epochs=0)


def test_a_backbone_replaces_the_source_and_only_where_there_is_one(recipe):
    with_hub = from_table({"architecture": {"image": {"kind": "hf_backbone", "source": "a/b", "size": 96}}})
    image = with_hub.with_source("folder").architecture["image"]
    assert image == {"kind": "hf_backbone", "source": "folder", "size": 96}
    with pytest.raises(RecipeError, match="no `source`"):
        recipe.with_source("folder")


def test_a_file_is_read_and_named_after_itself(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("seed = 3\n[schedule]\nepochs = 2\n")
    recipe = load_recipe(str(path))
    assert (recipe.name, recipe.seed, recipe.schedule.epochs) == ("mine", 3, 2)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text("seed = = 3")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (broken, binary, tmp_path / "absent.toml", tmp_path):
        with pytest.raises(RecipeError, match=path.name):
            load_recipe(str(path))


def test_an_unknown_shipped_name_is_answered_with_the_known_ones():
    with pytest.raises(UnknownName) as caught:
        load_recipe("fancy")
    assert "default" in caught.value.known


def test_changes_of_the_command_line_take_the_place_of_the_recipes_values():
    changes = ["defence.inner.steps=5", "optimiser.rate = 1e-3", "defence.new.deep = 'x'", "seed=7", "seed=8"]
    recipe = load_recipe("saat", changes)
    assert recipe.defence["inner"]["steps"] == 5
    assert recipe.defence["inner"]["objective"] == load_recipe("saat").defence["inner"]["objective"]
    assert recipe.defence["new"] == {"deep": "x"}
    assert (recipe.optimiser.rate, recipe.seed, recipe.name) == (1e-3, 8, "saat")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("steps", "wanted KEY=VALUE"),
        ("defence.inner.steps=", "wanted KEY=VALUE"),
        ("seed=1\nname='x'", "wanted one KEY=VALUE"),
        ("", "wanted one KEY=VALUE"),
        ("seed.deep=1", "seed is no table"),
        ("schedule.epoch=3", "epoch"),
        ("schedule=3", "schedule"),
        ("optimiser.rate='fast'", "rate"),
        ("defence=1", "defence"),
    ],
)
def test_a_change_that_is_none_is_an_error(change, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe("saat", [change])
