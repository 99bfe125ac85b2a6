"""The attack score: thresholds, its file, the encoder with and without it, and who attacks it."""

import json

import numpy as np
import pytest
import torch
from drfgd_made import ARCHITECTURE, BITS, CPU, SIDE, make_batch, make_hasher, num, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load, save

from model.artefact import save_artefact
from model.artefact_parts import ArtefactParts
from model.attack_score import RATES, AttackScore, read_score, threshold, to_tensors
from model.attacks.base import Target
from model.attacks.iterative import pgd
from model.attacks.joint import EmbeddingScore, ImageScore, Joint, JointModel
from model.attacks.mainstay import signs
from model.attacks.objectives import OwnCode
from model.attacks.threat import Threat, embedding_threat
from model.attacks.victims import EmbeddingModel, ImageModel
from model.branches import BranchSizes, SemanticEncoders
from model.errors import ArtefactError, MissingTower
from model.hashers.weights import to_arrays
from model.inference import Encoder
from model.preprocessing import Preprocessing
from model.training.config import from_table
from model.training.display import Silent
from model.training.distributed import World
from model.training.fit import Order, fit
from model.training.randomness import lent_randomness
from model.training.stopping import StopWish

SIZES = BranchSizes(width=8, labels=4, image=4, text=6, embedding=6)


def make_encoders(sizes=SIZES):
    with lent_randomness(CPU, 3, "encoders"):
        encoders = SemanticEncoders(sizes).eval()
        torch.nn.init.normal_(encoders.classifier.weight, std=2.0)
    return encoders


def make_tensors(**changes):
    benign = {side: np.linspace(0, 1, 200) for side in ("image", "text")}
    return {**to_tensors(make_encoders(), benign), **changes}


@given(st.integers(20, 400), st.sampled_from(RATES), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_the_threshold_is_the_conformal_rank(n, rate, seed):
    scores = np.random.default_rng(seed).random(n)
    chosen = threshold(scores, rate)
    assert (scores > chosen).mean() <= rate
    if n + 1 >= 1 / rate:
        assert (scores >= chosen).sum() >= np.floor((n + 1) * rate) > 0
    else:
        assert chosen == scores.max()


@pytest.mark.parametrize("rate", RATES)
def test_fresh_benign_queries_exceed_it_as_rarely_as_promised(rate):
    rng = np.random.default_rng(0)
    fresh = rng.exponential(size=4000)
    found = [(fresh > threshold(rng.exponential(size=250), rate)).mean() for _ in range(200)]
    assert np.mean(found) <= rate + 0.002
    assert np.mean(found) > 0.5 * rate


def test_no_scores_give_no_threshold():
    with pytest.raises(ValueError, match="got none"):
        threshold(np.zeros(0), 0.01)


def test_a_score_comes_back_as_it_was():
    encoders, hasher, batch = make_encoders(), make_hasher().eval(), make_batch()
    score = read_score(save(make_tensors()), hasher, 4, "here")
    wanted = encoders.score("image", batch.images)
    assert torch.equal(score.of_images(batch.images), wanted)
    assert bool((wanted >= 0).all())
    assert score.sides["image"].queries == 200
    assert set(score.sides["text"].thresholds) == set(RATES)
    assert score.sides["text"].thresholds[0.01] > score.sides["text"].thresholds[0.05]
    tower = hasher.text
    embedded = tower.embed(batch.tokens) / tower.embedding_rms()
    again = encoders.score("text", embedded, tower.mask(batch.tokens))
    assert torch.allclose(score.of_tokens(hasher, batch.tokens), again)


HOSTILE = {
    "no safetensors": (b"nonsense", "wanted safetensors"),
    "no sizes": (lambda t: t.pop("sizes"), "sizes: wanted torch.int64"),
    "another format": (lambda t: t["sizes"].__setitem__(0, 9), "format 1 of the attack score, got 9"),
    "huge": (lambda t: t["sizes"].__setitem__(1, 10**12), "width: wanted 1 to 16384"),
    "negative": (lambda t: t["sizes"].__setitem__(3, -4), "image: wanted 0 to 16384"),
    "odd channels": (lambda t: t["sizes"].__setitem__(3, 6), "multiple of 4, got 6"),
    "other labels": (lambda t: t["sizes"].__setitem__(2, 5), "wanted an attack score for 4 labels"),
    "other texts": (lambda t: t["sizes"].__setitem__(5, 7), "embeddings of width 6"),
    "missing": (lambda t: t.pop("encoders.classifier.bias"), "missing tensors classifier.bias"),
    "extra": (lambda t: t.update({"encoders.more": np.zeros(2)}), "tensors not wanted more"),
    "shape": (
        lambda t: t.update({"encoders.classifier.bias": np.zeros(5, np.float32)}),
        "classifier.bias: wanted",
    ),
    "not finite": (lambda t: t["encoders.classifier.bias"].__setitem__(0, np.nan), "wanted finite"),
    "unknown": (lambda t: t.update({"thresholds.sound": np.zeros(2)}), "unknown thresholds.sound"),
    "thresholds rise": (lambda t: t.update({"thresholds.image": np.array([0.1, 0.2])}), "falling numbers"),
    "threshold NaN": (lambda t: t.update({"thresholds.image": np.array([np.nan, 0.1])}), "falling numbers"),
    "threshold type": (lambda t: t.update({"thresholds.image": np.zeros(2, np.float32)}), "torch.float64"),
    "uncounted": (lambda t: t.pop("calibrated.image"), "calibrated.image: wanted"),
    "no side": (
        lambda t: [t.pop(f"{kind}.{s}") for kind in ("thresholds", "calibrated") for s in ("image", "text")],
        "thresholds of at least one side",
    ),
}


@pytest.mark.parametrize("how", sorted(HOSTILE))
def test_a_hostile_file_is_refused_with_the_reason(how):
    change, said = HOSTILE[how]
    tensors = {name: np.array(t) for name, t in make_tensors().items()}
    data = change
    if callable(change):
        change(tensors)
        data = save(tensors)
    with pytest.raises(ArtefactError, match=f"here: .*{said}"):
        read_score(data, make_hasher(), 4, "here")


IMAGE_ONLY = BranchSizes(width=8, labels=4, image=4, text=0, embedding=0)


def make_artefact(folder, *, score=True):
    """An image-only artefact, with or without an attack score."""
    hasher = make_hasher({"image": ARCHITECTURE["image"]})
    tensors = to_tensors(make_encoders(IMAGE_ONLY), {"image": np.linspace(0, 1, 200)}) if score else None
    parts = ArtefactParts(
        architecture={"image": {"pools": [1], **ARCHITECTURE["image"]}},
        bits=BITS,
        tensors=to_arrays(hasher),
        preprocessing=Preprocessing(size=SIDE),
        tokenizer=None,
        label_names=list("abcd"),
        training_data={"fingerprint": "f" * 64},
        defence={"name": "drfgd"},
        seed=0,
        code_version="0",
        score_tensors=tensors,
    )
    return save_artefact(folder, "scored", parts)


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(70)]


def test_codes_are_the_same_with_and_without_the_score(tmp_path, pictures):
    folder = make_artefact(tmp_path)
    plain, scoring = Encoder.load(folder, "cpu"), Encoder.load(folder, "cpu", score=True)
    before = scoring.encode_images(pictures)
    scores = scoring.score_images(pictures)
    assert np.array_equal(plain.encode_images(pictures), before)
    assert np.array_equal(scoring.encode_images(pictures), before)
    assert scores.shape == (70,)
    assert np.array_equal(scoring.score_images(pictures[3:4]), scores[3:4])
    assert scoring.score_images([]).shape == (0,)
    assert set(scoring.score_thresholds) == {"image"}
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    wanted = make_encoders(IMAGE_ONLY).score("image", x).detach().numpy()
    assert np.allclose(scores, wanted, atol=1e-4)


def test_a_score_that_was_not_loaded_is_not_given(tmp_path, pictures):
    encoder = Encoder.load(make_artefact(tmp_path), "cpu")
    assert encoder.score_thresholds == {}
    with pytest.raises(MissingTower, match="no attack score for images is loaded"):
        encoder.score_images(pictures[:1])
    with pytest.raises(MissingTower, match="reads no texts"):
        encoder.score_texts(["a"])


def test_a_score_that_is_not_there_cannot_be_loaded(tmp_path):
    with pytest.raises(ArtefactError, match="this model has none"):
        Encoder.load(make_artefact(tmp_path, score=False), "cpu", score=True)


def test_a_damaged_score_is_noticed_only_by_who_loads_it(tmp_path, pictures):
    folder = make_artefact(tmp_path)
    path = folder / "score.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    Encoder.load(folder, "cpu").encode_images(pictures[:1])
    with pytest.raises(ArtefactError, match=r"score\.safetensors: wanted .* with SHA-256"):
        Encoder.load(folder, "cpu", score=True)


def test_pictures_of_another_size_are_refused(tmp_path):
    encoder = Encoder.load(make_artefact(tmp_path), "cpu", score=True)
    with pytest.raises(ValueError, match="wanted uint8"):
        encoder.score_images([np.zeros((4, 4, 3), np.uint8)])


@pytest.fixture
def scored():
    hasher = make_hasher().eval().requires_grad_(False)
    return hasher, AttackScore(make_encoders().requires_grad_(False), {})


def test_the_joint_model_says_who_passes(scored):
    hasher, score = scored
    x = make_batch().images
    scores = score.of_images(x)
    level = float(scores.median())
    joint = JointModel(ImageModel(hasher), ImageScore(score), level)
    logits = joint(x)
    assert torch.equal(logits[:, :BITS], hasher.image(x))
    assert torch.equal(logits[:, BITS] >= 0, scores <= level)
    assert {id(p) for p in joint.module.parameters()} == {
        id(p) for part in (hasher.image, score.encoders) for p in part.parameters()
    }


def test_the_joint_objective_pays_for_being_suspicious():
    target = Target.single(torch.ones(2, BITS))
    h = torch.cat([torch.zeros(2, BITS), torch.tensor([[1.0], [-1.0]])], dim=1)
    inner = OwnCode()
    assert Joint(inner)(h, target).tolist() == [0.0, -3.0]
    assert Joint(inner, weight=0.0)(h, target).tolist() == inner(h[:, :BITS], target).tolist()
    assert Joint(inner).name == "own-code+score"


@pytest.mark.parametrize("side", ["image", "text"])
def test_who_knows_the_score_gets_past_it_where_the_others_do_not(scored, side):
    hasher, score = scored
    batch = make_batch(n=24)
    if side == "image":
        model_fn, x, score_fn = ImageModel(hasher), batch.images, ImageScore(score)
        threat = Threat(eps=0.1)
    else:
        model_fn, x = EmbeddingModel.of(hasher, batch.tokens)
        score_fn = EmbeddingScore(score, hasher, model_fn.mask)
        threat = embedding_threat(hasher.text, 1.0, 5)
    target = Target.single(signs(model_fn(x)))
    level = float(score_fn(x).quantile(0.25))
    joint = JointModel(model_fn, score_fn, level)
    blind = pgd(threat, OwnCode(), steps=10)(model_fn, x, target, generator=seeded())
    knowing = pgd(threat, Joint(OwnCode()), steps=10)(joint, x, target, generator=seeded())
    assert bool(threat.contains(knowing.x_adv, x).all())
    passed = [(score_fn(each.x_adv) <= level).float().mean() for each in (blind, knowing)]
    assert num(passed[1]) > num(passed[0])
    assert num(knowing.loss.mean()) > num(knowing.clean_loss.mean())
    if side == "text":
        assert torch.equal(knowing.x_adv[1, 3:], x[1, 3:])
        assert torch.allclose(joint.rows(slice(1, 3))(x[1:3]), joint(x)[1:3], atol=1e-5)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """A manifest folder of 100 coloured squares with captions."""
    folder = tmp_path_factory.mktemp("data") / "squares"
    (folder / "images").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for i in range(100):
        colour, place = ("red", "green", "blue")[i % 3], ("left", "right")[i // 3 % 2]
        picture = rng.integers(0, 90, (16, 16, 3), dtype=np.uint8)
        picture[4:12, 1 + 7 * (i // 3 % 2) : 8 + 7 * (i // 3 % 2), i % 3] = 220
        Image.fromarray(picture).save(folder / "images" / f"{i}.png")
        row = {"id": f"i{i}", "image": f"images/{i}.png", "texts": [f"a {colour} square {place}"]}
        rows.append(json.dumps({**row, "labels": [colour, place], "split": "train"}))
    (folder / "pairs.jsonl").write_text("\n".join(rows))
    return folder


def test_training_leaves_a_calibrated_score_and_a_model_of_the_usual_structure(squares, tmp_path):
    recipe = from_table(
        {
            "architecture": {
                "image": {**ARCHITECTURE["image"]},
                "text": {"kind": "conv", "max_length": 8, "dim": 6, "width": 4, "layers": 1, "hidden": 8},
            },
            "data": {"validation": 0.3},
            "schedule": {"epochs": 3, "batch": 16},
            "optimiser": {"rate": 0.01},
            "defence": {"width": 8, "image_channels": 4, "text_channels": 6, "inner": {"steps": 1}},
        }
    )
    folders = {}
    for defence in ("drfgd", "none"):
        chosen = recipe if defence == "drfgd" else from_table({**recipe_table(recipe), "defence": {}})
        order = Order(squares, tmp_path, defence, 16, defence, chosen)
        folders[defence] = fit(order, World(0, 1, CPU), Silent(), StopWish()).folder
    encoder = Encoder.load(folders["drfgd"], "cpu", score=True)
    assert encoder.card.manifest["threat"]["eps_image"] == pytest.approx(8 / 255)
    assert set(encoder.score_thresholds) == {"image", "text"}
    ours, theirs = (load((folders[d] / "model.safetensors").read_bytes()) for d in ("drfgd", "none"))
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}
    files = sorted((squares / "images").glob("*.png"))
    scores = encoder.score_images([encoder.decode(path.read_bytes()) for path in files])
    assert (scores > encoder.score_thresholds["image"][0.05]).mean() < 0.25
    assert not (folders["none"] / "score.safetensors").exists()
    with pytest.raises(ArtefactError, match="this model has none"):
        Encoder.load(folders["none"], "cpu", score=True)


def recipe_table(recipe):
    """The recipe's tables that the undefended twin shares."""
    return {
        "architecture": recipe.architecture,
        "data": {"validation": 0.3},
        "schedule": {"epochs": 1, "batch": 16},
        "optimiser": {"rate": 0.01},
    }
