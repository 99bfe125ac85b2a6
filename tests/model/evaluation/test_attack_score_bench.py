"""The benchmark of the attack score on a small model: its figures by other means, who knows it, the table."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from variants import save_variant

from bench import attack_score as bench
from bench.attack_score_table import attack_score_table
from model.attack_score import AttackScore, to_tensors
from model.attacks.base import Target
from model.attacks.joint import Joint, JointTextModel
from model.attacks.mainstay import signs
from model.attacks.objectives import Mainstay, OwnCode
from model.attacks.relaxation import Relaxation
from model.attacks.text_model import TextModel
from model.attacks.victims import Expectation, ImageModel
from model.branches import BranchSizes, SemanticEncoders
from model.errors import ArtefactError, DataError
from model.evaluation.runner import run_unit
from model.evaluation.score_stage import Evasion, load_score
from model.evaluation.scoring import mean_of
from model.evaluation.stage import Stage
from model.inference import Encoder
from model.training.randomness import lent_randomness

QUERIES, STEPS = 12, 3


def make_score(subject, manifest, sides):
    """Random branches, calibrated on the database items of a model: content of `score.safetensors`."""
    labels, width = len(subject.card.manifest["label_names"]), subject.hasher.text.embedding_width
    with lent_randomness(torch.device("cpu"), 5, "branches"):
        encoders = SemanticEncoders(BranchSizes(8, labels, image=4, text=6, embedding=width)).eval()
        torch.nn.init.normal_(encoders.classifier.weight, std=2.0)
    score, items = AttackScore(encoders, {}), manifest.of_split("database")
    with torch.no_grad():
        tokens = subject.text_codec().encode([item.texts[0] for item in items])
        texts = score.of_tokens(subject.hasher, tokens)
        benign = {"image": score.of_images(subject.images(items)), "text": texts}
    return to_tensors(encoders, {side: benign[side].double().numpy() for side in sides})


@pytest.fixture(scope="session")
def scored_folder(undefended, small_manifest, small_data):
    """The small undefended model with an attack score on both sides."""
    score = make_score(undefended, small_manifest, ("image", "text"))
    models = small_data.parent / "scored"
    return save_variant(undefended, models, "small-scored", defence="drfgd", score=score)


def arguments(data, model, **other):
    given = {"queries": QUERIES, "steps": STEPS, "seed": 1, "wordnet": None, "device": "cpu"}
    return Namespace(data=data, model=model, **{**given, **other})


@pytest.fixture(scope="session")
def prepared(small_data, scored_folder):
    return bench.prepare(arguments(small_data, scored_folder))


@pytest.fixture(scope="session")
def written(small_data, scored_folder, tmp_path_factory):
    """The data file of the whole command."""
    out = tmp_path_factory.mktemp("report")
    words = ["--data", small_data, "--model", scored_folder, "--out", out, "--device", "cpu"]
    words += ["--queries", QUERIES, "--steps", STEPS, "--seed", 1]
    return bench.main([str(word) for word in words])


@pytest.fixture(scope="session")
def report(written):
    return json.loads(written.read_text())


def find(report, attack, levels=None, below=None, weight=None):
    """The one row of an attack."""
    found = [
        row
        for row in report["rows"]
        if (row["attack"], row["stays_below"], row["weight"]) == (attack, below, weight)
        and (levels is None or round(row["eps"] * 255) == levels)
    ]
    assert len(found) == 1
    return found[0]


def test_every_planned_attack_has_its_row_and_the_file_names_its_conditions(report, written, small_data):
    planned = bench.plans(QUERIES, STEPS)
    assert len(report["rows"]) + len(report["left_out"]) == len(planned)
    assert report["left_out"] == []
    assert written.name == "attack-score-scenes.json"
    assert str(small_data.parent) not in written.read_text()
    assert report["command"].endswith("--model small-scored/1 --queries=12 --steps=3 --seed=1")
    assert (report["seed"], report["data"]["queries"], report["model"]["defence"]) == (1, QUERIES, "drfgd")
    for row in report["rows"]:
        assert 0 <= row["lo"] <= row["auroc"] <= row["hi"] <= 1
        assert 0 <= row["flagged"]["0.01"] <= row["flagged"]["0.05"] <= 1
        assert row["knows_score"] == (row["weight"] is not None)
    assert {row["task"] for row in report["rows"]} == {"image-to-text", "text-to-image"}


def test_benign_rates_are_of_all_queries_of_the_split(report, prepared, small_manifest, scored_folder):
    encoder = Encoder.load(scored_folder, "cpu", score=True)
    queries = [record for record in small_manifest.of_split("query") if record.labels]
    scores = encoder.score_texts([record.texts[0] for record in queries])
    for rate in (0.01, 0.05):
        found = report["benign"]["text"]["thresholds"][f"{rate:g}"]
        assert found["share"] == pytest.approx((scores > encoder.score_thresholds["text"][rate]).mean())
        assert found["lo"] <= found["share"] <= found["hi"]
    assert report["benign"]["text"]["n"] == len(queries) > QUERIES
    assert report["benign"]["text"]["calibrated_on"] == 200
    assert sorted(prepared.held["text"]) == pytest.approx(sorted(scores), rel=1e-5)


@pytest.mark.parametrize("attack", ["apgd:mainstay", "natural:jpeg", "typos:mainstay"])
def test_figures_are_those_of_the_plain_evaluation_and_of_scikit_learn(
    report, prepared, scored_folder, attack
):
    row = find(report, attack, 8 if attack.startswith("apgd") else None)
    plan = next(
        plan
        for plan in bench.plans(QUERIES, STEPS)
        if plan.aim is None and plan.spec.name == attack and plan.spec.eps == pytest.approx(row["eps"])
    )
    own = prepared.stage
    unit = run_unit(Stage(own.subject, own.setting, own.encoded), plan.spec)
    encoder = Encoder.load(scored_folder, "cpu", score=True)
    sent = encoder.score_texts(unit.texts) if unit.texts else encoder.score_images(list(unit.images))
    clean = prepared.benign[row["side"]]
    truth = roc_auc_score([0] * QUERIES + [1] * QUERIES, [*clean, *sent])
    assert row["auroc"] == pytest.approx(truth, abs=1e-9)
    threshold = encoder.score_thresholds[row["side"]][0.05]
    assert row["flagged"]["0.05"] == pytest.approx(np.mean(sent > threshold))
    before = prepared.evidence.clean_ap(row["task"])
    after = prepared.evidence.scores.ap(unit.codes, unit.rows, row["task"], "train+database")
    assert row["map"] == pytest.approx(mean_of(after))
    spared = [b if s > threshold else a for a, b, s in zip(after, before, sent, strict=True)]
    assert row["map_spared"] == pytest.approx(mean_of(np.array(spared)))


def test_the_same_seed_gives_the_same_figures(report, small_data, scored_folder):
    again, some = bench.prepare(arguments(small_data, scored_folder)), ("pgd:mainstay", "fgsm:mainstay")
    chosen = [plan for plan in bench.plans(QUERIES, STEPS) if plan.spec.name in some]
    rows = [row for row, _ in bench.measure(again, chosen)]
    told = [row for row in report["rows"] if row["attack"] in some]
    assert [(row["attack"], row["weight"]) for row in rows] == [
        (row["attack"], row["weight"]) for row in told
    ]
    for name in ("auroc", "lo", "hi", "map", "map_spared", "bit_flips"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in told])


def test_who_knows_the_score_is_seen_less_and_pays_for_it(prepared):
    """With steps enough: below the median nothing tells attacked from clean, and the code moves less."""
    spec = bench._image("pgd:mainstay", 16 / 255, QUERIES, steps=30, restarts=1)
    blind = prepared.row(bench.Plan(spec))
    hidden = prepared.row(bench.Plan(spec, ("median", 3.0)))
    flag = prepared.row(bench.Plan(spec, ("flag", 3.0)))
    assert hidden["auroc"] < blind["auroc"]
    assert hidden["auroc"] < 0.55
    assert flag["flagged"]["0.05"] <= blind["flagged"]["0.05"]
    assert flag["flagged"]["0.05"] == 0
    assert hidden["map"] < hidden["clean_map"]
    assert hidden["aims_below"] == pytest.approx(float(np.median(prepared.benign["image"])))


def test_texts_can_be_changed_with_the_score_in_view(prepared):
    plans = [plan for plan in bench.plans(QUERIES, 10) if plan.spec.name == "typos:mainstay"]
    rows = {plan.aim: prepared.row(plan) for plan in plans}
    assert rows["median", 3.0]["auroc"] < rows[None]["auroc"]
    assert rows["flag", 3.0]["flagged"]["0.05"] <= rows[None]["flagged"]["0.05"]


def test_the_joint_text_model_agrees_with_its_embeddings(prepared):
    own, score = prepared.stage.subject, prepared.stage.score
    texts = [record.texts[0] for record in prepared.stage.setting.queries]
    plain = TextModel(own.hasher, own.text_codec())
    tokens, bits = plain.tokens(texts), own.card.bits
    scores = score.of_tokens(own.hasher, tokens).detach()
    level = float(scores.median())
    joint = JointTextModel(plain.hasher, plain.codec, score, level)
    logits = joint.logits(texts)
    assert torch.equal(logits[:, :bits], plain.logits(texts))
    assert torch.equal(signs(logits)[:, bits] > 0, scores <= level)
    tower = own.hasher.text_tower()
    again = joint.read(tower.embed(tokens), tower.mask(tokens))
    assert torch.allclose(again, logits, atol=1e-4)
    assert joint.logits([]).shape == (0, bits + 1)
    target, relaxation = Target.single(signs(plain.logits(texts))), Relaxation("tanh")
    slopes = {
        weight: torch.cat(joint.word_slopes(texts, target, Joint(OwnCode(), weight), relaxation))
        for weight in (0.0, 3.0)
    }
    assert torch.allclose(
        slopes[0.0], torch.cat(plain.word_slopes(texts, target, OwnCode(), relaxation)), atol=1e-5
    )
    assert not torch.allclose(slopes[0.0], slopes[3.0], atol=1e-3)


def test_only_gradient_attacks_can_be_joined_with_the_score(prepared):
    stage = prepared.stage.evading(Evasion({"image": 1.0, "text": 1.0}, 1.0))
    spec = bench._image("square:own-code", 8 / 255, QUERIES, queries=10, purpose="black-box")
    with pytest.raises(DataError, match="square:own-code: wanted a gradient attack to join"):
        run_unit(stage, spec)
    with pytest.raises(DataError, match="wanted images or embedded texts to score, got Expectation"):
        stage.victim(Expectation(ImageModel(stage.subject.hasher)))
    attack = stage.text_attack("typos:own-code", None)
    assert attack.objective == Joint(OwnCode(), 1.0)
    assert prepared.stage.text_attack("typos:mainstay", None).objective == Mainstay()


def test_a_unit_that_keeps_nothing_cannot_be_scored(prepared):
    spec = bench._image("fgsm:mainstay", 8 / 255, QUERIES, steps=1, restarts=1)
    unit = run_unit(prepared.stage, type(spec)(**{**spec.to_json(), "keep_images": False}))
    with pytest.raises(DataError, match="wanted a unit that keeps what was sent"):
        prepared.stage.scores_of(unit)


def test_a_model_without_a_score_is_refused_and_a_side_without_one_left_out(
    undefended, undefended_folder, small_manifest, small_data, tmp_path
):
    with pytest.raises(ArtefactError, match="this model has none"):
        bench.prepare(arguments(small_data, undefended_folder))
    score = make_score(undefended, small_manifest, ("image",))
    folder = save_variant(undefended, tmp_path, "half", score=score)
    half = bench.prepare(arguments(small_data, folder))
    assert set(load_score(half.stage.subject).sides) == set(half.rates()) == {"image"}
    plans = [
        plan for plan in bench.plans(QUERIES, 1) if plan.spec.name in ("fgsm:mainstay", "words:mainstay")
    ]
    rows = list(bench.measure(half, plans))
    assert [row is not None for row, _ in rows] == [True] * 4 + [False] * 5
    assert rows[-1][1] == {"what": "words:mainstay (text)", "why": "no score for texts"}


def test_the_table_shows_the_figures_of_the_data_files(report, written, tmp_path):
    assert attack_score_table(tmp_path) == ""
    table = attack_score_table(written.parent)
    assert table.startswith(
        "scenes, small-scored/1 (drfgd, 32 bits, seed 0), 12 queries. Benign queries above"
    )
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    shown = {(cells[0], cells[1]): cells for cells in lines[1:]}
    row = find(report, "pgd:mainstay", 8, "flag", 0.3)
    cells = shown["pgd:mainstay 8/255", "below the 5 % threshold, weight 0.3"]
    assert cells[2] == f"{row['auroc']:.3f} ({row['lo']:.3f}-{row['hi']:.3f})"
    assert cells[3:] == [
        *(f"{100 * row['flagged'][rate]:.1f} %" for rate in ("0.01", "0.05")),
        *(f"{row[name]:.3f}" for name in ("clean_map", "map", "map_spared")),
    ]
    assert ("natural:jpeg severity 3", "-") in shown
    assert ("embedding:mainstay RMS 0.05", "below the benign median, weight 3") in shown
    assert not any(name.startswith("pgd:mainstay 4/255") for name, _ in shown)
