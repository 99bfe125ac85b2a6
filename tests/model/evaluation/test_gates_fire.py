"""Every gate fires: on real models, attacked by the real attack code, where something real is wrong.

The first half is the test of the tests: defences broken on purpose, and which gates see through them. The
second half breaks the evaluation instead of the model: budgets, effort, databases, splits, texts.
"""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from broken_defences import TABLE, Wrapped, wrapped
from small_suite import BLIND, HEADLINE, TRANSFERRED, attacked, fired, image_spec, text_spec, verdicts

from model.attacks import text_attacks
from model.attacks.registry import Effort, build_attack
from model.attacks.subjects import with_both
from model.attacks.text_attacks import TextOutcome
from model.attacks.threat import Threat
from model.data.manifest import read_manifest
from model.evaluation.encoded import encode_data
from model.evaluation.gates import GATES
from model.evaluation.probes import run_probes
from model.evaluation.runner import Session
from model.evaluation.stage import Setting, choose_queries
from model.hashers.base import CrossModalHasher

FGSM, AT_2, AT_4, AT_8, OWN, AT_16, UNBOUNDED = HEADLINE[:7]
SQUARE, _, NOISE, NOISES = BLIND
(TRANSFER,) = TRANSFERRED

# What a defence must be caught by, and the units that this takes. The bench runs everything on everything.
CAUGHT = {
    "sign without gradient": (
        (AT_8, SQUARE, NOISES, TRANSFER),
        {"zero-gradients", "gradient-free", "transfer", "random"},
    ),
    "detached input": ((AT_8, SQUARE, TRANSFER), {"zero-gradients", "gradient-free", "transfer"}),
    "random resize": ((AT_8,), {"deterministic", "served-path", "database-digest"}),
    "resize seeded by the picture": (
        (AT_8, replace(AT_8, steps=24, restarts=2, purpose="convergence", keep_images=False)),
        {"convergence"},
    ),
    "shattered slope": ((AT_8, SQUARE, TRANSFER), {"gradient-free", "transfer"}),
    "gradients inside": ((), {"no-gradient-inside"}),
    "smoothed in secret": ((), {"deterministic"}),
    "smoothed when noisy": ((AT_4, AT_16, UNBOUNDED), {"monotone", "unbounded", "zero-gradients"}),
    "slope on whole levels only": ((FGSM, AT_8), {"one-step"}),
    "batch statistics": ((AT_8,), {"deterministic", "served-path", "database-digest"}),
}


@pytest.fixture(scope="module")
def session():
    """The undefended model is the surrogate of all: encoded once."""
    return Session()


def test_every_broken_defence_has_its_gates():
    assert CAUGHT.keys() == TABLE.keys()


@pytest.mark.parametrize("name", TABLE)
def test_broken_defences_are_caught(name, undefended, small_manifest, healthy, session):
    specs, wanted = CAUGHT[name]
    subject = wrapped(undefended, name)
    evidence = attacked(subject, small_manifest, specs, surrogates=[undefended], session=session)
    found = fired(evidence, healthy)
    assert wanted <= found
    assert not found & {"budget", "disjoint", "works-on-twin"}


def test_the_twin_must_be_there_and_must_fall(undefended, small_manifest, healthy):
    blind = attacked(wrapped(undefended, "sign without gradient"), small_manifest, [AT_16])
    found = verdicts(healthy, blind)["works-on-twin"]
    assert not found.holds
    assert found.figures["reached"] < 0.5
    missing = verdicts(healthy, None)["works-on-twin"]
    assert not missing.holds
    assert "wanted an undefended twin" in missing.detail


def test_a_twin_that_retrieves_nothing_shows_nothing(undefended, small_manifest, healthy):
    tower = undefended.hasher.image_tower()

    class Scrambled(Wrapped):
        """Every picture is the same picture."""

        def forward(self, x):
            return self.tower(x * 0 + 0.5)

    hollow = replace(undefended, hasher=CrossModalHasher(Scrambled(tower), undefended.hasher.text))
    evidence = attacked(hollow, small_manifest, [AT_16])
    assert "works-on-twin" in fired(healthy, evidence)


def test_too_few_steps_have_not_converged(undefended, small_manifest, healthy, session):
    short = replace(AT_2, steps=1, count=30)
    long = replace(short, steps=12, restarts=2, purpose="convergence")
    found = verdicts(attacked(undefended, small_manifest, [short, long], session=session), healthy)[
        "convergence"
    ]
    assert not found.holds
    assert found.figures["apgd:mainstay 2/255"]["points"] < -1
    assert found.figures["apgd:mainstay 2/255"]["effort"] == ["1x1", "12x2"]


def test_an_attack_that_more_effort_weakens_is_broken(undefended, small_manifest, healthy):
    def confused(name, threat, effort):
        return build_attack(
            name, threat, replace(effort, steps=1, restarts=1) if effort.restarts > 1 else effort
        )

    setting = Setting(small_manifest, choose_queries(small_manifest, [undefended], 30), build=confused)
    base = replace(AT_2, count=30, steps=15)
    more = replace(base, steps=30, restarts=2, purpose="convergence")
    found = verdicts(attacked(undefended, small_manifest, [base, more], setting=setting), healthy)
    assert not found["convergence"].holds
    assert "weaker with more steps" in found["convergence"].detail


def test_strict_halves_what_may_change(undefended, small_manifest, healthy, session):
    """The same evidence between the two limits holds for quick and standard, and fails for full."""
    base = replace(AT_2, count=30)
    long = replace(base, steps=12, restarts=2, purpose="convergence")
    evidence = attacked(undefended, small_manifest, [base, long], session=session)
    figures = verdicts(evidence, healthy)["convergence"].figures["worst case 2/255"]
    limit = abs(figures["points"])
    for strict, allowed in ((False, 1.0), (True, 0.5)):
        assert verdicts(evidence, healthy, strict=strict)["convergence"].holds == (limit < allowed)


def test_effort_that_is_not_passed_on_shows_on_the_curve(undefended, small_manifest, healthy):
    """Whoever mixes up the steps gets a curve that rises: the unit of 16 runs one, that of 2 runs 15."""

    def confused(name, threat, effort):
        return build_attack(name, threat, Effort(steps=17 - effort.steps))

    setting = Setting(small_manifest, choose_queries(small_manifest, [undefended], 30), build=confused)
    curve = [replace(AT_2, steps=steps, count=30, purpose="steps") for steps in (2, 16)]
    assert "more-steps" in fired(attacked(undefended, small_manifest, curve, setting=setting), healthy)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_that_takes_more_than_its_budget(norm, undefended, small_manifest, healthy):
    def greedy(name, threat, effort):
        return build_attack(name, Threat(threat.norm, 1.5 * threat.eps), effort)

    setting = Setting(small_manifest, choose_queries(small_manifest, [undefended], 10), build=greedy)
    eps = 8 / 255 if norm == "linf" else 1.0
    spec = replace(AT_8, norm=norm, eps=eps, steps=3, count=10)
    evidence = attacked(undefended, small_manifest, [spec], setting=setting)
    found = verdicts(evidence, healthy)["budget"]
    assert not found.holds
    assert f"{norm} of" in found.detail
    assert 1.2 * eps < getattr(evidence.attacked[0], norm).max() <= 1.5 * eps + 1e-6
    # Whoever forgets to measure, or measures and does not tell, is found out by the probe or by the gate.
    silent = replace(evidence.attacked[0], budget={"holds": True}, linf=np.zeros(10), l2=np.zeros(10))
    hushed = replace(evidence, attacked=[silent])
    assert "measured again" in verdicts(hushed, healthy)["budget"].detail
    assert "budget" in fired(hushed, healthy)
    unmeasured = replace(evidence, attacked=[replace(silent, budget=None)])
    assert "nobody measured" in verdicts(unmeasured, healthy)["budget"].detail


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (text_spec("typos:mainstay", 1, count=8), "words changed, allowed are"),
        (text_spec("words:mainstay", 0.2, count=8), "words changed, allowed are"),
    ],
)
def test_texts_beyond_their_limits(spec, said, undefended, small_manifest, healthy, session, monkeypatch):
    """The attack believes it may change four words of any text."""
    monkeypatch.setattr(text_attacks, "word_budget", lambda _: 4)
    evidence = attacked(undefended, small_manifest, [spec], session=session)
    assert said in verdicts(evidence, healthy)["text-limits"].detail
    assert "text-limits" in fired(evidence, healthy)
    # And when the attack keeps it to itself, the recount of the probe says it.
    monkeypatch.setattr(TextOutcome, "broken", lambda *_: [])
    evidence = attacked(undefended, small_manifest, [spec], session=session)
    assert not evidence.attacked[0].broken_limits
    assert said in verdicts(evidence, healthy)["text-limits"].detail


def test_texts_that_were_written_anew(healthy, undefended, small_manifest, session):
    """Another text altogether, sent and scored as what became of the query."""
    spec = text_spec("typos:mainstay", 1, count=4)
    honest = attacked(undefended, small_manifest, [spec], session=session)
    texts = ("something else", *honest.attacked[0].texts[1:3], honest.attacked[0].texts[3] + "x" * 9)
    codes = (undefended.text_codes(texts) > 0).numpy()
    evidence = replace(honest, attacked=[replace(honest.attacked[0], texts=texts, codes=codes)])
    evidence.facts.update(run_probes(evidence))
    broken = verdicts(evidence, healthy)["text-limits"].figures["broken"]
    assert any("something other than words" in line for line in broken)
    assert any("more than one typing error" in line for line in broken)


def test_a_database_of_another_model(undefended, surrogate, small_manifest, healthy):
    setting = Setting(small_manifest, choose_queries(small_manifest, [undefended], 10))
    theirs = encode_data(surrogate, small_manifest, setting.queries)
    evidence = attacked(undefended, small_manifest, (), setting=setting, database=theirs)
    found = verdicts(evidence, healthy)["database-digest"]
    assert not found.holds
    assert surrogate.digest[:12] in found.detail
    assert undefended.digest[:12] in found.detail
    # Stale codes under the right name: encoding a few items again tells.
    relabelled = replace(theirs, digest=undefended.digest)
    evidence = attacked(undefended, small_manifest, (), setting=setting, database=relabelled)
    found = verdicts(evidence, healthy)["database-digest"]
    assert not found.holds
    assert "bits of 64 codes differ" in found.detail


def test_queries_that_are_in_train_or_database(small_data, undefended, healthy, tmp_path):
    """By the bytes of their image under another id, and by id."""
    folder = tmp_path / "leaky"
    shutil.copytree(small_data, folder)
    manifest = read_manifest(folder)
    queries = choose_queries(manifest, [undefended], 10)
    others = manifest.of_split("train")[0], manifest.of_split("database")[0]
    for query, other in zip(queries, others, strict=False):
        other.image.write_bytes(query.image.read_bytes())
    evidence = attacked(undefended, manifest, (), setting=Setting(manifest, queries))
    found = verdicts(evidence, healthy)["disjoint"]
    assert not found.holds
    assert found.figures["queries_in_train"] == {"count": 1, "ids": [queries[0].id]}
    assert found.figures["queries_in_database"] == {"count": 1, "ids": [queries[1].id]}
    mixed = [*queries[2:6], manifest.of_split("train")[1]]
    evidence = attacked(undefended, manifest, (), setting=Setting(manifest, mixed))
    assert verdicts(evidence, healthy)["disjoint"].figures["queries_in_train"]["ids"] == [mixed[-1].id]
    assert "disjoint" in fired(evidence, healthy)


def test_train_items_in_the_database_are_said_and_allowed(small_data, undefended, healthy, tmp_path):
    folder = tmp_path / "papers"
    shutil.copytree(small_data, folder)
    manifest = read_manifest(folder)
    train, database = manifest.of_split("train")[0], manifest.of_split("database")[0]
    database.image.write_bytes(train.image.read_bytes())
    setting = Setting(manifest, with_both(manifest.of_split("query"), undefended)[:5])
    found = verdicts(attacked(undefended, manifest, (), setting=setting), healthy)["disjoint"]
    assert found.holds
    assert "1 images are in both train and database" in found.detail


def test_what_is_served_is_not_what_was_scored(healthy, surrogate):
    """Another model goes online under the name of the evaluated one."""
    swapped = replace(healthy, subject=replace(healthy.subject, hasher=surrogate.hasher), facts={})
    swapped.facts.update(run_probes(swapped))
    assert {"served-path", "database-digest"} <= fired(swapped, healthy)


def test_what_cannot_be_served_at_all(healthy, undefended):
    """A tower that needs gradients fails in inference mode, where the service runs it; alone it gives NaN."""

    class NeedsGradients(Wrapped):
        def forward(self, x):
            if torch.is_inference_mode_enabled():
                raise RuntimeError("needs gradients. And a second sentence")
            return self.tower(x) * (float("nan") if len(x) == 1 else 1)

    hasher = CrossModalHasher(NeedsGradients(undefended.hasher.image_tower()), undefended.hasher.text)
    offline = replace(healthy, subject=replace(undefended, hasher=hasher), facts={})
    offline.facts.update(run_probes(offline))
    found = verdicts(offline, healthy)
    assert not found["served-path"].holds
    assert "clean images: needs gradients" in found["served-path"].detail
    assert "raised: needs gradients" in found["deterministic"].detail
    assert "not finite" in found["deterministic"].detail


def test_switching_gradients_on_counts_even_without_a_backward_pass(healthy, undefended):
    class Recording(Wrapped):
        def forward(self, x):
            with torch.enable_grad():
                return self.tower(x)

    hasher = CrossModalHasher(Recording(undefended.hasher.image_tower()), undefended.hasher.text)
    recording = replace(healthy, subject=replace(undefended, hasher=hasher))
    found = verdicts(replace(recording, facts=run_probes(recording)), healthy)["no-gradient-inside"]
    assert not found.holds
    assert "switches gradients on" in found.detail


def test_every_gate_is_made_to_fire():
    """The names in this file against the gates there are."""
    seen = set.union(*(wanted for _, wanted in CAUGHT.values()))
    seen |= {"works-on-twin", "more-steps", "budget", "text-limits", "disjoint"}
    assert seen == set(GATES)


def test_a_single_draw_is_an_attack_of_the_random_kind(healthy):
    assert NOISE.queries == 1
    assert any("noise:mainstay 8/255 1q" in key for key in verdicts(healthy, healthy)["random"].figures)
    assert image_spec("noise:mainstay", 8, queries=1, purpose="random") == NOISE
