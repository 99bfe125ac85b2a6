"""From folder to artefact: what is written, what an interrupted run leaves, what is refused."""

import dataclasses
import errno
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from model.artefact import list_models, open_artefact, verify
from model.errors import ArtefactError, CheckpointError, DataError, RecipeError, UnknownName
from model.inference import Encoder
from model.training import fit as fitting
from model.training.config import from_table, to_table
from model.training.display import Silent
from model.training.distributed import World
from model.training.fit import Order, default_name, fit
from model.training.runs import RunFolder
from model.training.stopping import Stopped, StopWish

ALONE = World(0, 1, torch.device("cpu"))


class Ear(Silent):
    """A display that remembers, and does something when it hears something."""

    def __init__(self, word="nothing", react=lambda: None):
        self.lines = []
        self.word, self.react = word, react

    def say(self, message):
        self.lines.append(message)
        if message.startswith(self.word):
            self.react()


@pytest.fixture
def order(folder, recipe, tmp_path):
    return Order(folder, tmp_path / "models", "tiny", 16, "none", recipe)


def train(order, ear=None, wish=None):
    return fit(order, ALONE, ear or Ear(), StopWish() if wish is None else wish)


def weights(outcome):
    return load_file(outcome.folder / "model.safetensors")


def test_the_artefact_holds_what_the_contract_says(order, folder):
    outcome = train(order)
    assert outcome.folder == order.models / "tiny" / "1"
    card = verify(outcome.folder)
    assert card.bits == 16
    assert card.manifest["training_data"]["labels"] == "manifest"
    assert card.manifest["training_data"]["held_out"] == 18
    assert card.manifest["defence"] == {"name": "none", "recipe": to_table(order.recipe)}
    clean = card.manifest["scores"]["clean"]
    assert clean["map"] == outcome.scores
    assert "held-out part of the train split" in clean["protocol"]
    calibration = open_artefact(outcome.folder).calibration()
    assert set(calibration) == {"image-to-text", "text-to-image", "image-to-image", "text-to-text"}
    assert all(len(curve) == 17 for curve in calibration.values())
    assert [(m.name, m.version) for m in list_models(order.models)] == [("tiny", "1")]


def test_the_artefact_retrieves_what_it_was_trained_for(order, folder, tiny):
    longer = from_table({**tiny, "schedule": {"epochs": 30, "batch": 16, "validate_every": 30}})
    outcome = train(dataclasses.replace(order, recipe=longer))
    encoder = Encoder.load(outcome.folder, "cpu")
    texts = encoder.encode_texts(["a red square", "a green stripe"])  # items 0 and 4 share no label
    pictures = [encoder.decode((folder / f"images/{i}.png").read_bytes()) for i in (0, 4)]
    distances = (texts[:, None] != encoder.encode_images(pictures)[None]).sum(2)
    assert np.diag(distances).max() < distances[~np.eye(2, dtype=bool)].min()
    assert outcome.scores["image-to-text"] > 0.8


def test_the_same_order_gives_the_same_weights_and_the_next_version(order):
    first, second = train(order), train(order)
    assert second.folder.name == "2"
    ours, theirs = weights(first), weights(second)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert not (order.models / ".runs" / "tiny" / "checkpoints").exists()
    assert list((order.models / ".runs" / "tiny" / "logs").glob("events*"))


def crash():
    raise KeyboardInterrupt("as if the power went")


@pytest.mark.parametrize("how", ["wish", "crash", "mid-epoch"])
def test_an_interrupted_run_continues_to_the_same_artefact(order, how):
    straight = train(dataclasses.replace(order, name="straight"))
    wish = StopWish()
    if how == "crash":  # after two whole epochs; the third is lost
        with pytest.raises(KeyboardInterrupt):
            train(order, Ear("epoch 3/4", crash), wish)
    elif how == "wish":
        with pytest.raises(Stopped, match="step 6 of 12") as stopped:
            train(order, Ear("epoch 2/4", lambda: setattr(wish, "signum", 15)), wish)
        assert stopped.value.signum == 15
    else:

        class Later(StopWish):
            asked = 0

            def __bool__(self):
                self.asked += 1
                self.signum = 2 if self.asked > 72 + 5 else 0  # 72 images are decoded first
                return self.signum != 0

        with pytest.raises(Stopped, match=r"step [456] of 12"):
            train(order, wish=Later())
    ear = Ear()
    continued = train(dataclasses.replace(order, resume=True), ear)
    assert any(line.startswith("continuing at step") for line in ear.lines)
    ours, theirs = weights(straight), weights(continued)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert straight.scores == continued.scores


def stop_early(order):
    wish = StopWish()
    with pytest.raises(Stopped):
        train(order, Ear("epoch 2/4", lambda: setattr(wish, "signum", 2)), wish)


def test_a_wish_while_decoding_stops_before_the_first_step(order):
    wish = StopWish()
    wish.signum = 2
    with pytest.raises(Stopped, match="decoding") as stopped:
        train(order, wish=wish)
    assert not stopped.value.resumable


def test_another_recipe_or_other_data_cannot_be_continued(order, make_folder, tiny):
    stop_early(order)
    resumed = dataclasses.replace(order, resume=True)
    other = from_table({**tiny, "optimiser": {"rate": 0.02}})
    with pytest.raises(CheckpointError, match=r"recipe\.optimiser\.rate was 0\.01, now 0\.02"):
        train(dataclasses.replace(resumed, recipe=other))
    with pytest.raises(CheckpointError, match="data was"):
        train(dataclasses.replace(resumed, data=make_folder(72, seed=5)))
    train(resumed)


def test_a_damaged_checkpoint_and_the_one_before_it(order):
    straight = train(dataclasses.replace(order, name="straight"))
    stop_early(order)
    newest = max((order.models / ".runs" / "tiny" / "checkpoints").iterdir())
    (newest / "weights.safetensors").write_bytes(b"")
    resumed = dataclasses.replace(order, resume=True)
    with pytest.raises(CheckpointError, match="--previous"):
        train(resumed)
    ours = weights(train(dataclasses.replace(resumed, previous=True)))
    assert all(np.array_equal(tensor, ours[name]) for name, tensor in weights(straight).items())


def test_nothing_to_continue_and_a_damaged_run_folder(order):
    resumed = dataclasses.replace(order, resume=True)
    with pytest.raises(CheckpointError, match="without --resume"):
        train(resumed)
    stop_early(order)
    run = order.models / ".runs" / "tiny"
    for name, content in (("tokenizer.json", "{}"), ("hasher.json", "[]"), ("hasher.json", "not json")):
        (run / name).write_text(content)
        with pytest.raises(CheckpointError, match="is damaged"):
            train(resumed)


def test_starting_over_moves_an_unfinished_run_aside(order):
    stop_early(order)
    ear = Ear()
    train(order, ear)
    assert any("unfinished" in line and "tiny.previous" in line for line in ear.lines)
    assert (order.models / ".runs" / "tiny.previous" / "checkpoints").is_dir()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"bits": 20}, RecipeError, "multiple of 8 from 16 to 256, got 20"),
        ({"name": "../up"}, RecipeError, "name"),
        ({"defence": "magic"}, UnknownName, "none"),
        ({"previous": True}, RecipeError, "needs --resume"),
    ],
)
def test_what_cannot_be_is_refused_before_the_data_is_read(order, change, error, said):
    with pytest.raises(error, match=said):
        train(dataclasses.replace(order, data=order.data / "absent", **change))


def test_precomputed_features_are_not_in_a_manifest(order):
    recipe = from_table({"architecture": {"image": {"kind": "features", "dim": 8}}})
    with pytest.raises(RecipeError, match="precomputed features"):
        train(dataclasses.replace(order, recipe=recipe))


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"image": None}, "no train item has an image"), ({"texts": []}, "no train item has a text")],
)
def test_a_tower_without_anything_to_read_is_refused(order, make_folder, fields, said):
    data = make_folder(20, change=lambda _, row: row | fields)
    with pytest.raises(DataError, match=said):
        train(dataclasses.replace(order, data=data))


def test_a_broken_image_is_named(order, make_folder):
    data = make_folder(20)
    (data / "images" / "7.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match=r"7\.png"):
        train(dataclasses.replace(order, data=data))


@pytest.mark.parametrize("side", ["image", "text"])
def test_models_of_one_side(order, side, tiny):
    alone = from_table({**tiny, "architecture": {side: tiny["architecture"][side]}})
    outcome = train(dataclasses.replace(order, recipe=alone))
    assert set(outcome.scores) == {f"{side}-to-{side}"}
    assert Encoder.load(outcome.folder, "cpu").modalities == {side}


def test_mixed_items_and_a_small_data_set_train(order, make_folder):
    def change(i, row):
        return row | ({"image": None} if i % 4 == 0 else {}) | ({"texts": []} if i % 4 == 1 else {})

    outcome = train(dataclasses.replace(order, data=make_folder(24, change=change)))
    assert np.isfinite(next(iter(weights(outcome).values()))).all()


def test_without_labels_the_manifest_says_pseudo(order, make_folder, tiny):
    recipe = from_table({**tiny, "data": {"pseudo_labels": 4, "validation": 0.25}})
    data = make_folder(60, change=lambda _, row: row | {"labels": []})
    ear = Ear()
    outcome = train(dataclasses.replace(order, data=data, recipe=recipe), ear)
    card = verify(outcome.folder)
    assert card.manifest["training_data"]["labels"] == "pseudo"
    assert any("no labels" in line for line in ear.lines)


def test_nothing_held_out_gives_no_score_and_no_calibration(order, tiny):
    recipe = from_table({**tiny, "data": {"validation": 0.0}})
    outcome = train(dataclasses.replace(order, recipe=recipe))
    assert outcome.scores == {}
    assert open_artefact(outcome.folder).calibration() == {}


def test_images_from_disk_train_to_the_same_weights(order, tiny):
    from_disk = from_table({**tiny, "data": {"validation": 0.25, "memory_mb": 0, "workers": 0}})
    ours = weights(train(order))
    theirs = weights(train(dataclasses.replace(order, recipe=from_disk)))
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_full_disk_at_the_end_keeps_the_checkpoint(order, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "save_artefact", full)
        with pytest.raises(ArtefactError, match=r"No space left on device.*--resume"):
            train(order)
    ear = Ear()
    assert train(dataclasses.replace(order, resume=True), ear).folder.name == "1"
    assert not any(line.startswith("epoch") for line in ear.lines)


def test_a_run_folder_that_cannot_be_written_is_said(tmp_path, order):
    order.models.mkdir()
    (order.models / ".runs").write_text("a file in the way")
    with pytest.raises(CheckpointError, match="cannot write the run's folder"):
        train(order)


def test_machine_paths_stay_out_of_the_manifest(tmp_path):
    source = tmp_path / "weights"
    source.mkdir()
    image = {"kind": "hf_backbone", "source": str(source)}
    recipe = from_table({"architecture": {"image": image, "text": {"kind": "conv"}}})
    assert json.dumps(fitting._shareable(recipe)).count(str(tmp_path)) == 0
    assert fitting._shareable(recipe)["architecture"]["image"]["source"] == "weights"
    edited = from_table({"augment": {"text_edits": 0.5}}).with_wordnet(str(tmp_path))
    assert fitting._shareable(edited)["augment"]["wordnet"] == "WordNet"


def test_names_are_made_from_the_data(tmp_path):
    assert default_name(tmp_path / "my data!", "none", 64) == "my-data--none-64"
    assert default_name(tmp_path / "...", "none", 64).endswith("-none-64")


def test_paths_of_a_run(tmp_path):
    run = RunFolder(tmp_path)
    assert run.checkpoints.parent == run.logs.parent == tmp_path


def test_the_manifest_of_a_defended_model_says_against_what(order, tiny):
    recipe = from_table({**tiny, "defence": {"inner": {"eps_image": 0.02, "eps_text": 0.1, "steps": 1}}})
    outcome = train(dataclasses.replace(order, defence="saat", recipe=recipe))
    manifest = verify(outcome.folder).manifest
    assert manifest["defence"]["name"] == "saat"
    threat = manifest["threat"]
    assert (threat["norm"], threat["eps_image"], threat["eps_text"]) == ("linf", 0.02, 0.1)
    assert verify(train(order).folder).manifest["threat"] is None
