"""Healthy models pass every gate, what was not run is left out, and the verdicts are fit for a report."""

import json
from dataclasses import replace

import numpy as np
import pytest
from small_suite import CURVE, HEADLINE, IMAGES, TEXTS, attacked, image_spec, verdicts

from model.evaluation.evidence import ModelEvidence
from model.evaluation.gates import GATES, check
from model.evaluation.probes import run_probes
from model.evaluation.stage import Setting
from model.evaluation.verdicts import Check, LeftOut, View
from model.hashers.base import CrossModalHasher

LITTLE = (HEADLINE[0], HEADLINE[3], HEADLINE[5])
"""At 8/255 a single step and several, and 16/255."""


def without(evidence: ModelEvidence, *methods: str, purposes: tuple[str, ...] = ()) -> ModelEvidence:
    """The evidence without the units of some methods or purposes."""
    kept = [
        unit
        for unit in evidence.attacked
        if unit.spec.method not in methods and unit.spec.purpose not in purposes
    ]
    return replace(evidence, attacked=kept)


def test_the_small_model_is_attacked_as_a_real_one(healthy):
    """What the fixture promises: clean well above chance, below chance at 8/255, near the floor at 1."""
    task, protocol = "image-to-text", "train+database"
    means = {
        levels: float(healthy.unit_ap(healthy.find(name="apgd:mainstay", eps=levels / 255)[0], task).mean())
        for levels in (2, 8, 255)
    }
    chance, floor = healthy.scores.chance(task, protocol), healthy.scores.floor(task, protocol)
    assert healthy.mean_clean(task) > chance + 0.15
    assert means[2] > chance > means[8]
    assert means[255] < floor + 0.06


def test_an_undefended_model_passes_every_gate(healthy):
    checks, left_out = check(healthy, healthy, strict=False)
    assert left_out == []
    assert [verdict.name for verdict in checks] == list(GATES)
    assert [verdict.name for verdict in checks if not verdict.holds] == []
    assert "small form: 60 queries" in {v.name: v.detail for v in checks}["gradient-free"]
    assert verdicts(healthy, healthy, strict=True)["convergence"].holds


def test_another_healthy_model_passes_with_the_first_as_twin_and_surrogate(
    surrogate, undefended, small_manifest, healthy
):
    evidence = attacked(surrogate, small_manifest, (*LITTLE, *IMAGES[-1:]), surrogates=[undefended])
    checks = verdicts(evidence, healthy)
    assert [name for name, verdict in checks.items() if not verdict.holds] == []
    assert checks["works-on-twin"].figures["twin"] == "undefended"


def test_checks_are_json_without_nan_and_say_their_figures(healthy):
    for verdict in check(healthy, healthy, strict=False)[0]:
        entry = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
        assert sorted(entry) == ["detail", "figures", "holds", "name"]
        assert entry["figures"]
        assert len(entry["detail"]) > 20


@pytest.mark.parametrize(
    ("methods", "purposes", "gate"),
    [
        (("fgsm",), (), "one-step"),
        ((), ("convergence",), "convergence"),
        ((), ("steps",), "more-steps"),
        (("square", "nes"), (), "gradient-free"),
        (("transfer",), (), "transfer"),
        (("noise",), (), "random"),
        (("words", "typos", "embedding"), (), "text-limits"),
    ],
)
def test_what_was_not_run_is_left_out_and_does_not_hold(healthy, methods, purposes, gate):
    checks, left_out = check(without(healthy, *methods, purposes=purposes), healthy, strict=False)
    assert [line.partition(":")[0] for line in left_out] == [gate]
    assert gate not in {verdict.name for verdict in checks}


def test_nothing_run_leaves_only_the_twin_to_fail(healthy):
    bare = replace(healthy, attacked=[], facts={})
    checks, left_out = check(bare, None, strict=False)
    assert [(verdict.name, verdict.holds) for verdict in checks] == [("works-on-twin", False)]
    assert len(left_out) == len(GATES) - 1
    assert all(len(line) > 20 for line in left_out)
    _, left_out = check(bare, bare, strict=False)
    assert any(line.startswith("works-on-twin: the twin undefended was not attacked") for line in left_out)


def test_images_must_be_kept_for_the_served_path(healthy):
    kept = [replace(unit, images=None) for unit in healthy.attacked]
    _, left_out = check(replace(healthy, attacked=kept), healthy, strict=False)
    assert left_out == ["served-path: no white-box attack kept its images"]


def test_models_of_one_side(undefended, small_manifest):
    """Image gates are judged on image-to-image; a model that reads no images has none of them."""
    tower = undefended.hasher
    pictures = replace(undefended, codec=None, hasher=CrossModalHasher(tower.image_tower(), None))
    evidence = attacked(pictures, small_manifest, LITTLE)
    assert View(evidence).task == "image-to-image"
    assert [name for name, v in verdicts(evidence, evidence).items() if not v.holds] == []
    texts = replace(undefended, preprocessing=None, hasher=CrossModalHasher(None, tower.text_tower()))
    evidence = attacked(texts, small_manifest, TEXTS)
    assert View(evidence).task == ""
    checks, left_out = check(evidence, None, strict=False)
    wanted = ["deterministic", "no-gradient-inside", "served-path", "database-digest", "disjoint"]
    assert [verdict.name for verdict in checks] == [*wanted, "zero-gradients", "text-limits"]
    assert all(verdict.holds for verdict in checks)
    assert left_out == ["budget: no attack on images with a budget was run"]


def test_probes_leave_the_model_as_it_was(healthy):
    hasher = healthy.subject.hasher
    hasher.requires_grad_(True)
    hasher.image_tower().train()
    before = {name: tensor.clone() for name, tensor in hasher.state_dict().items()}
    facts = run_probes(healthy)
    assert hasher.image_tower().training
    assert not hasher.text_tower().training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in hasher.parameters())
    assert all((before[name] == tensor).all() for name, tensor in hasher.state_dict().items())
    hasher.eval()
    assert json.loads(json.dumps(facts, allow_nan=False)) == json.loads(json.dumps(healthy.facts))


def test_queries_without_anything_relevant_do_not_count(undefended, small_manifest, healthy):
    """Relevance is by label: a query whose labels nobody has is excluded, and one alone decides nothing."""
    queries = [replace(record, labels=()) for record in healthy.queries[:4]]
    setting = Setting(small_manifest, [*queries[:2], *healthy.queries[2:12]])
    evidence = attacked(undefended, small_manifest, (HEADLINE[0], HEADLINE[3]), setting=setting)
    assert View(evidence).counted.tolist() == list(range(2, 12))
    assert np.isfinite(verdicts(evidence, healthy)["one-step"].figures.popitem()[1]["points"])
    alone = attacked(
        undefended, small_manifest, (HEADLINE[0], HEADLINE[3]), setting=Setting(small_manifest, queries)
    )
    _, left_out = check(alone, None, strict=False)
    assert "strength: no evaluated query has a relevant item to retrieve" in left_out


def test_curves_over_steps_and_names_of_units(healthy):
    (curve,) = verdicts(healthy, healthy)["more-steps"].figures.values()
    assert list(curve) == [str(spec.steps) for spec in CURVE]
    assert str(LeftOut("gate", "why")) == "gate: why"
    assert Check("a", holds=True, detail="b").to_json()["figures"] == {}
    assert image_spec("apgd:mainstay", 8).eps == pytest.approx(8 / 255)
