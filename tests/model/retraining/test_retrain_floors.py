"""What speaks against a candidate, on made reports."""

import pytest

from model.errors import DataError
from model.retraining.floors import Floors, shortfalls

FLOORS = Floors(clean=0.02, robust=0.05)
TASK, OTHER, PROTOCOL = "image-to-text", "text-to-image", "train+database"


def entry(label, digest, clean, other=0.6):
    figures = {TASK: {PROTOCOL: {"map": clean}}, OTHER: {PROTOCOL: {"map": other}}}
    return {"label": label, "digest": digest, "clean": figures}


def worst(label, value, eps=8 / 255):
    return {"model": label, "task": TASK, "protocol": PROTOCOL, "norm": "linf", "eps": eps, "map": value}


def report(*, clean=(0.70, 0.70), robust=(0.40, 0.40), holds=(True, True), other=(0.6, 0.6)):
    """A report on a candidate and a live model, in this order."""
    labels, digests = ("tiny/2", "tiny/1"), ("new", "old")
    return {
        "models": [entry(*both) for both in zip(labels, digests, clean, other, strict=True)],
        "worst_case": [worst(*both) for both in zip(labels, robust, strict=True)],
        "checks": [
            {"model": label, "name": "monotone", "holds": held}
            for label, held in zip(labels, holds, strict=True)
        ],
    }


def reasons(found, live="old"):
    return shortfalls(found, "new", live, FLOORS)


def test_a_candidate_like_the_live_model_or_better_passes():
    assert reasons(report()) == []
    assert reasons(report(clean=(0.9, 0.7), robust=(0.8, 0.4))) == []


@pytest.mark.parametrize(("clean", "robust", "n"), [(0.681, 0.351, 0), (0.679, 0.351, 1), (0.679, 0.349, 2)])
def test_each_floor_counts_from_the_live_figure(clean, robust, n):
    found = reasons(report(clean=(clean, 0.70), robust=(robust, 0.40)))
    assert len(found) == n
    assert all("wanted mAP" in line and TASK in line for line in found)


def test_one_task_that_got_worse_is_enough_and_is_named():
    (line,) = reasons(report(clean=(0.9, 0.7), other=(0.5, 0.6)))
    assert line.startswith(f"clean, {OTHER}, {PROTOCOL}: wanted mAP 0.580 or more (0.600 live), got 0.500")


def test_a_gate_of_the_candidate_that_fails_refuses_it_and_one_of_the_live_model_does_not():
    assert reasons(report(holds=(False, True))) == ["the gate does not hold: tiny/2: monotone"]
    assert reasons(report(holds=(True, False))) == []
    assert reasons(report(holds=(False, True), clean=(0.1, 0.9)), live=None) == [
        "the gate does not hold: tiny/2: monotone"
    ]


def test_what_the_live_model_can_and_the_candidate_cannot_is_a_reason():
    found = report(other=(None, 0.6))
    assert reasons(found) == [
        f"clean, {OTHER}, {PROTOCOL}: the live model has mAP 0.600, the candidate no figure"
    ]
    assert reasons(report(other=(0.6, None))) == []


def test_a_budget_that_only_the_live_model_was_attacked_with_is_a_reason():
    found = report()
    found["worst_case"].append(worst("tiny/1", 0.3, 2 / 255))
    (line,) = reasons(found)
    assert "linf 0.007843: the live model has mAP 0.300, the candidate no figure" in line


def test_without_an_attack_nothing_is_published():
    found = report()
    found["worst_case"] = []
    assert reasons(found) == ["no attack has a figure, so nothing is known of its robustness"]


def test_a_report_on_other_models_is_an_error():
    with pytest.raises(DataError, match="digest gone in the report, got 0"):
        shortfalls(report(), "gone", "old", Floors())
    with pytest.raises(DataError, match="digest older in the report, got 0"):
        shortfalls(report(), "new", "older", Floors())
