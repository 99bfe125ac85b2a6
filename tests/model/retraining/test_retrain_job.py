"""The steps of a retraining on tiny models: what is served, refused, passed over, and taken up again."""

import json
import shutil
import signal
from contextlib import nullcontext

import pytest
import torch
from retrain_made import UNREACHABLE, draw_data

from model.artefact import list_models, read_card
from model.errors import ArtefactError, DataError, RecipeError, RetrainingError
from model.retraining.floors import Floors
from model.retraining.job import Order, retrain
from model.retraining.work import DECISION, Run, alone
from model.training.distributed import World
from model.training.loop import Trainer
from model.training.observer import Observer
from model.training.stopping import Stopped, StopWish


def labels(home):
    return [f"{card.name}/{card.version}" for card in list_models(home / "models")]


def decision_of(home):
    (path,) = (home / "retrain").glob(f"*/{DECISION}")
    return json.loads(path.read_text())


@pytest.fixture
def no_work(monkeypatch):
    """A step that is done again is a failure."""
    for step in ("fit", "evaluate"):
        monkeypatch.setattr(f"model.retraining.job.{step}", lambda *_: pytest.fail("done again"))


def test_a_model_that_passes_is_published_with_its_figures_and_served(home, admin, retraining):
    result = retraining(if_new_data=True)
    assert (result.outcome, result.model) == ("served", "tiny/2")
    assert admin.asked == ["tiny/2"]
    assert labels(home) == ["tiny/1", "tiny/2"]
    card = read_card(home / "models" / "tiny" / "2")
    assert (card.bits, card.manifest["defence"]["name"]) == (32, "none")
    assert card.manifest["defence"]["recipe"]["name"] == "tiny"
    figures = json.loads((card.folder / "robustness.json").read_text())
    assert figures["model"]["digest"] == card.digest
    assert decision_of(home)["outcome"] == "served"
    assert retraining(if_new_data=True).why == "the live model was trained on this very data"
    assert admin.asked == ["tiny/2"]


def test_data_that_the_live_model_knows_is_nothing_to_do(home, admin, retraining, live_folder):
    result = retraining(if_new_data=True, data=live_folder.parents[2] / "old")
    assert (result.outcome, result.model) == ("unchanged", "tiny/1")
    assert admin.asked == []
    assert list((home / "retrain").iterdir()) == []


def test_a_refused_model_is_neither_published_nor_tried_again(home, admin, retraining, refused, no_work):
    assert refused.startswith("tiny/2 is refused, the live model stays: clean, image-to-text")
    assert (labels(home), admin.asked) == (["tiny/1"], [])
    assert any(reason.startswith("worst case, image-to-text") for reason in decision_of(home)["reasons"])
    again = retraining(if_new_data=True, floors=UNREACHABLE)
    assert again.outcome == "unchanged"
    assert "tiny/2, which was refused: clean, image-to-text" in again.why


def test_other_floors_judge_the_refused_model_again_without_training(admin, retraining, refused, monkeypatch):
    monkeypatch.setattr("model.retraining.job.fit", lambda *_: pytest.fail("trained again"))
    result = retraining(if_new_data=True, floors=Floors(clean=0.9, robust=0.9))
    assert (result.outcome, admin.live_model) == ("served", "tiny/2")


def test_on_demand_trains_anew_on_data_that_was_refused(home, retraining, refused):
    (before,) = (home / "retrain").glob("*/models/tiny/2/manifest.json")
    created = before.stat().st_mtime_ns
    with pytest.raises(RetrainingError, match="refused"):
        retraining(floors=UNREACHABLE)
    assert before.stat().st_mtime_ns > created


def test_a_service_that_failed_is_asked_again_and_nothing_else_is_done(
    home, admin, retraining, accepted, no_work
):
    assert decision_of(home)["outcome"] == "accepted"
    assert retraining(if_new_data=True).outcome == "served"
    assert (admin.asked, decision_of(home)["outcome"]) == (["tiny/2"], "served")


def test_a_swap_that_the_trainer_did_not_live_to_see_is_known(admin, retraining, accepted, no_work):
    admin.live_model = "tiny/2"
    assert retraining(if_new_data=True).why == "the live model was trained on this very data"
    assert admin.asked == []


def test_a_roll_back_of_the_operator_is_left_alone(admin, retraining, accepted, no_work):
    retraining(if_new_data=True)
    admin.live_model = "tiny/1"
    result = retraining(if_new_data=True)
    assert (result.outcome, admin.live_model) == ("unchanged", "tiny/1")
    assert "served and has been replaced since" in result.why


def test_a_service_that_serves_something_else_afterwards_is_named(admin, retraining, accepted, monkeypatch):
    monkeypatch.setattr(admin, "reindex", lambda model, tell: None)
    with pytest.raises(RetrainingError, match="wanted tiny/2 to be live, got tiny/1"):
        retraining()


def test_a_stopped_training_goes_on_from_its_checkpoint(retraining, monkeypatch):
    wish, after_epoch, restore, steps = StopWish(), Observer.after_epoch, Trainer.restore, []

    def stop_after_the_epoch(self, trainer, record):
        after_epoch(self, trainer, record)
        wish.signum = signal.SIGTERM

    def seen(self, snapshot):
        steps.append(snapshot.counters["step"])
        restore(self, snapshot)

    monkeypatch.setattr(Trainer, "restore", seen)
    with monkeypatch.context() as patched, pytest.raises(Stopped) as stop:
        patched.setattr(Observer, "after_epoch", stop_after_the_epoch)
        retraining(wish, if_new_data=True)
    assert (stop.value.resumable, steps) == (True, [])
    assert retraining(if_new_data=True).outcome == "served"
    assert len(steps) == 1
    assert steps[0] > 0


def test_a_wish_to_stop_ends_the_watching_and_the_decision_stays(home, retraining, accepted, no_work):
    wish = StopWish()
    wish.signum = signal.SIGINT
    with pytest.raises(Stopped, match="the service's job goes on"):
        retraining(wish)
    assert decision_of(home)["outcome"] == "accepted"
    assert retraining().outcome == "served"


def test_torchrun_and_a_training_without_a_result_are_errors(home, retraining, monkeypatch):
    monkeypatch.setattr("model.retraining.job.fit", lambda *_: None)
    with pytest.raises(RetrainingError, match="left no model"):
        retraining()
    monkeypatch.setattr(
        "model.retraining.job.joined_world", lambda _: nullcontext(World(0, 2, torch.device("cpu")))
    )
    with pytest.raises(RetrainingError, match="wanted one process, got 2"):
        retraining()
    assert labels(home) == ["tiny/1"]


def test_without_a_live_model_the_gates_alone_decide(tmp_path, admin, new_data):
    admin.live_model = None
    admin.models = tmp_path / "empty" / "models"
    recipe = tmp_path / "first.toml"
    recipe.write_text(
        "[architecture.image]\nkind = 'residual_cnn'\nsize = 16\nstem = 4\nwidths = [6]\npools = [0, 1]\n"
        "[schedule]\nepochs = 1\nbatch = 16\n"
    )
    order = Order(
        new_data,
        tmp_path / "empty",
        recipe=str(recipe),
        bits=16,
        attacks="fgsm:mainstay",
        queries=4,
        device="cpu",
    )
    assert retrain(order, admin, StopWish()).model == "new-none-16/1"


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"bits": 0}, RecipeError, "bits: wanted"),
        ({"attacks": "fly:mainstay"}, Exception, "fly"),
        ({"backbone": "somewhere"}, RecipeError, "no `source`"),
    ],
)
def test_an_order_that_cannot_be_is_an_error(home, admin, retraining, changes, error, said):
    with pytest.raises(error, match=said):
        retraining(**changes)
    assert (labels(home), admin.asked) == (["tiny/1"], [])


def test_data_without_labelled_queries_cannot_be_judged(home, admin, retraining, tmp_path):
    folder = draw_data(tmp_path / "plain", 60)
    lines = [
        json.loads(line) | {"split": "train"} for line in (folder / "pairs.jsonl").read_text().splitlines()
    ]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    with pytest.raises(DataError, match="labelled items of split query"):
        retraining(data=folder)
    assert (labels(home), admin.asked) == (["tiny/1"], [])


def test_a_home_of_another_service_is_refused(home, admin, retraining):
    admin.live_model = "gone/1"
    admin.models = home.parent / "elsewhere"
    shutil.copytree(home / "models" / "tiny" / "1", admin.models / "gone" / "1")
    with pytest.raises(ArtefactError, match="wanted the model 'gone/1'"):
        retraining()


def test_two_at_once_are_one_too_many(home, retraining):
    with alone(home / "retrain"), pytest.raises(RetrainingError, match="another retraining is at work"):
        retraining()


def test_a_version_that_somebody_else_has_taken_is_not_overwritten(home, retraining, accepted, live_folder):
    taken = home / "models" / "tiny" / "2"
    shutil.rmtree(taken)
    shutil.copytree(live_folder, taken)
    with pytest.raises(RetrainingError, match="written by somebody else meanwhile"):
        retraining()
    assert read_card(taken).digest == read_card(live_folder).digest
    assert list((home / "retrain").iterdir()) == []


def test_a_candidate_that_has_vanished_starts_anew(home, retraining, accepted):
    shutil.rmtree(home / "models" / "tiny" / "2")
    with pytest.raises(RetrainingError, match="vanished"):
        retraining()
    assert list((home / "retrain").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "damaged"), ('{"outcome": "served"}', "damaged"), (None, "outcome: wanted one of")],
)
def test_a_damaged_decision_is_not_believed(tmp_path, text, said):
    whole = {"outcome": "perhaps", "model": "tiny/2", "digest": "x", "judged": "x", "reasons": []}
    (tmp_path / DECISION).write_text(text if text is not None else json.dumps(whole))
    with pytest.raises(RetrainingError, match=said):
        Run(tmp_path).decision()


def defended(tmp_path):
    """A recipe of DRFGD on the tiny towers, with a rate that only networks of the defence have."""
    path = tmp_path / "defended.toml"
    path.write_text(
        "[architecture.image]\nkind = 'residual_cnn'\nsize = 16\nstem = 4\nwidths = [6]\npools = [0, 1]\n"
        "hidden = 8\n[architecture.text]\nkind = 'conv'\nmax_length = 8\ndim = 8\nwidth = 8\nlayers = 1\n"
        "hidden = 8\n[schedule]\nepochs = 2\nbatch = 16\n[optimiser]\nrate = 0.01\n"
        "rates = {image = 0.5, generators = 0.25}\n"
        "[defence]\nwidth = 8\nimage_channels = 8\ntext_channels = 8\nshare = 0.5\ngenerator_every = 1\n"
    )
    return str(path)


def test_a_defended_candidate_is_judged_beside_an_undefended_twin(home, admin, retraining, tmp_path):
    result = retraining(recipe=defended(tmp_path), defence="drfgd")
    assert result.outcome == "served"
    (twin,) = list_models(next((home / "retrain").glob("*/twin")))
    candidate = read_card(home / "models" / result.model)
    assert (twin.manifest["defence"]["name"], candidate.manifest["defence"]["name"]) == ("none", "drfgd")
    assert twin.manifest["architecture"] == candidate.manifest["architecture"]
    assert twin.manifest["defence"]["recipe"]["optimiser"]["rates"] == {"image": 0.5}
    (report,) = (home / "retrain").glob("*/evaluation/*/report.json")
    model = next(one for one in json.loads(report.read_text())["models"] if one["digest"] == candidate.digest)
    assert model["twin"]["digest"] == twin.digest


def test_a_twin_that_is_there_is_not_trained_again(home, retraining, tmp_path, monkeypatch):
    order = {"recipe": defended(tmp_path), "defence": "drfgd", "if_new_data": True}
    with pytest.raises(RetrainingError, match="refused"):
        retraining(**order, floors=UNREACHABLE)
    monkeypatch.setattr("model.retraining.job.fit", lambda *_: pytest.fail("trained again"))
    assert retraining(**order, floors=Floors(clean=0.9, robust=0.9)).outcome == "served"
