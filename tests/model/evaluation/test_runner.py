"""Units as the runner makes them, and the figures made of them, on small models under real attacks."""

import json
from dataclasses import replace
from math import isnan

import numpy as np
import pytest
import torch
from small_suite import LEVEL, image_spec, text_spec
from torch import nn
from variants import save_variant

from model.attacks.blackbox import RankFeedback
from model.attacks.candidate import expected_ranks
from model.attacks.knowledge import shared_labels
from model.attacks.subjects import knowledge_of, load_subject
from model.data.manifest import Manifest
from model.errors import DataError
from model.evaluation.assembly import Judged, assemble
from model.evaluation.encoded import encode_data, knowledge_from, signed
from model.evaluation.evidence import ModelEvidence
from model.evaluation.examples import hits, image_examples, text_examples
from model.evaluation.profiles import Profile
from model.evaluation.runner import Session, evaluate_model, title
from model.evaluation.scoring import PROTOCOLS, mean_of
from model.evaluation.specs import AttackSpec
from model.evaluation.stage import Contender, Setting, channels_last, choose_queries, fingerprint_of
from model.evaluation.store import UnitStore
from model.evaluation.summary import Summary, all_pairs, clean_json, paired, thinned

FEW = 12


@pytest.fixture(scope="module")
def setting(small_manifest, undefended, surrogate) -> Setting:
    return Setting(small_manifest, choose_queries(small_manifest, [undefended, surrogate], FEW))


def attack(subject, setting, *specs, surrogates=(), **other) -> ModelEvidence:
    fitted = [replace(spec, first=0, count=FEW) for spec in specs]
    return evaluate_model(Contender("model", subject, surrogates), fitted, setting, **other)


def candidate(aim):
    return image_spec(f"apgd:{aim}", 8, purpose="candidate", steps=30)


def test_the_worst_case_is_the_mean_of_minima_over_queries(healthy):
    summary = Summary(healthy)
    for case in summary.cases.values():
        task, protocol, norm, eps = case.key
        units = [
            unit
            for unit in healthy.attacked
            if unit.spec.purpose not in ("natural", "candidate")
            and task.startswith(unit.spec.side)
            and (unit.spec.norm in ("words", "typos") if norm == "text" else unit.spec.norm == norm)
            and (norm == "text" or abs(unit.spec.eps - eps) < 1e-9)
        ]
        assert set(case.attacks) == {unit.spec.name for unit in units}
        clean = healthy.clean_ap(task, protocol)
        for row, value in enumerate(case.values):
            tries = [healthy.unit_ap(u, task, protocol)[row - u.spec.first] for u in units if row in u.rows]
            if not tries or isnan(clean[row]):
                assert isnan(value)
            else:
                assert value == min([clean[row], *tries])
    worst = {tuple(row[k] for k in ("task", "protocol", "norm", "eps")): row for row in summary.worst_case()}
    row = worst["image-to-text", "train+database", "linf", 8 * LEVEL]
    singles = [mean_of(healthy.unit_ap(u, "image-to-text")) for u in healthy.find(eps=8 * LEVEL)]
    assert row["map"] <= min(singles)  # a minimum of means would be no lower
    assert row["n"] == len(healthy.queries)


def test_queries_that_were_not_attacked_do_not_soften_the_worst_case(healthy):
    """Words and typing errors ran on the first 20 queries only: the figure is about those."""
    cases = [row for row in Summary(healthy).worst_case() if row["norm"] == "text"]
    assert {row["n"] for row in cases} == {20}
    main = next(row for row in cases if (row["task"], row["protocol"]) == ("text-to-image", "train+database"))
    assert main["clean_map"] == pytest.approx(mean_of(healthy.clean_ap("text-to-image")[:20]))
    assert main["map"] < main["clean_map"]


def test_units_do_not_depend_on_what_ran_before(undefended, setting):
    a, b = image_spec("apgd:mainstay", 4), image_spec("noise:own-code", 8, queries=5, purpose="random")
    forth, back = attack(undefended, setting, a, b).attacked, attack(undefended, setting, b, a).attacked[::-1]
    for one, other in zip(forth, back, strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)
        np.testing.assert_array_equal(one.curve, other.curve)


def test_another_seed_gives_another_attack(undefended, setting):
    spec = image_spec("noise:own-code", 16, queries=1, purpose="random")
    one = attack(undefended, setting, spec).attacked[0]
    other = attack(undefended, replace(setting, seed=1), spec).attacked[0]
    assert (one.l2 != other.l2).any()


def test_what_the_attacker_knows_is_what_attack_knows(undefended, small_manifest, setting):
    encoded = encode_data(undefended, small_manifest, setting.queries)
    for side in ("image", "text"):
        mine = knowledge_from(encoded, side, seed=3, device=undefended.device)
        theirs = knowledge_of(undefended, small_manifest, setting.queries, side, seed=3)
        for name in ("clean", "labels", "codes", "code_labels", "paired", "other_side", "goals"):
            assert torch.equal(getattr(mine, name), getattr(theirs, name)), name


def test_every_kind_of_unit_runs_and_counts(undefended, surrogate, setting):
    specs = [
        image_spec("ranks:own-code", 8, steps=0, restarts=0, queries=40, purpose="black-box"),
        image_spec("nes:own-code", 8, queries=90, purpose="black-box"),
        image_spec("transfer:mainstay", 8, purpose="transfer"),
        image_spec("apgd:targeted-mainstay", 16),
        image_spec("apgd:mainstay", 255, norm="l2", eps=1.5),
        AttackSpec("natural:noise", "image", "natural", 5, 0, 0, 0, 0, FEW, "natural"),
        text_spec("words:own-code", 0.2),
    ]
    evidence = attack(undefended, setting, *specs, surrogates=(surrogate,))
    ranks, nes, transfer, targeted, l2, natural, words = evidence.attacked
    assert evidence.left_out == []
    assert (ranks.queries == 40).all()
    assert (nes.queries <= 90).all()
    assert [unit.had_gradient for unit in (ranks, nes, natural)] == [False] * 3
    assert (transfer.queries == 2).all()
    assert transfer.had_gradient
    assert l2.l2.max() <= 1.5
    assert (l2.linf > 16 / 255).any()
    assert l2.budget["holds"]
    assert natural.budget is None
    assert np.isnan(natural.loss).all()
    assert words.texts is not None
    assert words.broken_limits == ()
    goals = evidence.scores.target_ap(targeted.codes, targeted.rows, "image-to-text", "database")
    before = evidence.scores.target_ap(
        evidence.clean_codes["image"], targeted.rows, "image-to-text", "database"
    )
    assert mean_of(goals) > mean_of(before) + 0.1
    rows = Summary(evidence).rows()
    assert {row["attack"] for row in rows if row["t_map"] is not None} == {"apgd:targeted-mainstay"}


def test_the_ranks_attack_asks_the_gallery_of_the_model(undefended, setting, monkeypatch):
    seen = []
    whole = RankFeedback.open

    def opened(self, clean, target):
        seen.append(self.gallery)
        return whole(self, clean, target)

    monkeypatch.setattr(RankFeedback, "open", opened)
    spec = image_spec("ranks:own-code", 8, steps=0, restarts=0, queries=3, purpose="black-box")
    evidence = attack(undefended, setting, spec)
    pool = evidence.scores.pool("image-to-image", "database")
    assert torch.equal(seen[0], signed(pool.codes, undefended.device))


def test_candidates_rise_and_sink(undefended, setting):
    evidence = attack(undefended, setting, candidate("raise"), candidate("sink"))
    raised = evidence.attacked[0]
    assert evidence.tasks_of(raised) == ()
    rows = {row["attack"]: row for row in Summary(evidence).candidates()}
    assert rows["apgd:raise"]["rank_after"] < rows["apgd:raise"]["rank_before"] - 20
    assert rows["apgd:sink"]["rank_after"] > rows["apgd:sink"]["rank_before"] + 20
    assert raised.extra["database"] == 200
    assert not Summary(evidence).cases


def test_a_candidate_does_not_compete_with_itself(undefended, setting, small_manifest):
    """Clean places, computed again the long way round."""
    spec = replace(candidate("sink"), count=3, steps=1)
    unit = evaluate_model(Contender("model", undefended), [spec], setting).attacked[0]
    encoded = encode_data(undefended, small_manifest, setting.queries)
    items = encoded.splits["database"].of_side("image")
    codes = signed(encoded.splits["database"].codes["image"], undefended.device)
    queries = signed(encoded.splits["query"].codes["text"], undefended.device)
    labels = [torch.from_numpy(encoded.labels(records)) for records in (items[:3], setting.queries)]
    allowed = shared_labels(*labels)
    for row in range(3):
        others = torch.cat([codes[:row], codes[row + 1 :]])
        places = [
            float(expected_ranks(codes[row : row + 1], query.view(1, 1, -1), others)) for query in queries
        ]
        possible = {round(place, 2) for place, ok in zip(places, allowed[row], strict=True) if ok}
        assert unit.extra["rank_before"][row] in possible


def test_a_surrogate_may_read_pictures_of_another_size(undefended, surrogate, setting):
    size = replace(surrogate.preprocessing, size=48)
    larger = replace(surrogate, preprocessing=size)
    spec = image_spec("transfer:mainstay", 16, purpose="transfer")
    unit = attack(undefended, setting, spec, surrogates=(larger,)).attacked[0]
    assert unit.linf.max() <= 16 / 255 + 1e-6
    assert unit.flips.sum() > 0


def test_layout_changes_only_inside_and_no_value(undefended):
    weights = [p for p in undefended.hasher.image_tower().parameters() if p.dim() == 4]
    before = [(p.clone(), p.is_contiguous()) for p in weights]
    with channels_last(undefended):
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    for parameter, (value, plain) in zip(weights, before, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.is_contiguous() == plain


def test_queries_are_the_same_in_any_order_and_for_any_number(small_manifest, undefended):
    backwards = Manifest(small_manifest.folder, small_manifest.records[::-1], small_manifest.label_names)
    ten = choose_queries(small_manifest, [undefended], 10)
    assert ten == choose_queries(backwards, [undefended], 10)
    assert ten == choose_queries(small_manifest, [undefended], 20)[:10]
    assert {record.split for record in ten} == {"query"}


def test_a_store_gives_back_what_was_finished_and_nothing_else(undefended, setting, tmp_path):
    spec = image_spec("noise:mainstay", 8, queries=1, purpose="random")
    store = UnitStore.open(tmp_path)
    first = attack(undefended, setting, spec, session=Session(store)).attacked[0]
    again = attack(undefended, setting, spec, session=Session(store)).attacked[0]
    assert again.seconds == first.seconds  # read, not run
    other = attack(undefended, setting, replace(spec, eps=9 / 255), session=Session(store)).attacked[0]
    assert other.spec.eps != first.spec.eps
    fewer = replace(setting, queries=setting.queries[:-1])
    assert len(attack(undefended, fewer, spec, session=Session(store)).attacked[0]) == FEW - 1
    assert len(list((tmp_path / "units").iterdir())) == 3


def test_a_model_with_other_modules_under_the_same_digest_shares_no_units(undefended, tmp_path):
    folder = save_variant(undefended, tmp_path, "copy")
    copy = load_subject(folder, "cpu")
    assert fingerprint_of(copy) != fingerprint_of(undefended)
    same = replace(copy, card=undefended.card)
    assert fingerprint_of(same) == fingerprint_of(undefended)
    copy.hasher.image_tower().register_module("extra", nn.Identity())
    assert fingerprint_of(same) != fingerprint_of(undefended)


def test_models_are_compared_query_by_query(undefended, surrogate, setting):
    spec = image_spec("apgd:mainstay", 8)
    one, other = (Summary(attack(subject, setting, spec)) for subject in (undefended, surrogate))
    rows = paired(one, other)
    assert len(rows) == 2 * len(PROTOCOLS)
    for row in rows:
        key = (row["task"], row["protocol"], row["norm"], row["eps"])
        gap = one.cases[key].values - other.cases[key].values
        assert row["difference"] == pytest.approx(gap.mean())
        assert row["lo"] <= row["difference"] <= row["hi"]
    assert all_pairs([one]) == []
    assert all_pairs([one, other]) == rows


def test_hits_come_in_the_order_served(healthy):
    pool = healthy.scores.pool("image-to-text", "train+database")
    code = healthy.clean_codes["image"][0]
    distance = (pool.codes != code).sum(1).tolist()
    wanted = sorted(zip(distance, [i.encode() for i in pool.ids], strict=True))[:5]
    found = hits(healthy, code, 0, "image-to-text")
    assert [(hit["distance"], hit["id"].encode()) for hit in found] == wanted
    labels = set(healthy.queries[0].labels)
    known = {record.id: set(record.labels) for record in healthy.manifest.records}
    assert [hit["relevant"] for hit in found] == [bool(labels & known[hit["id"]]) for hit in found]


def test_examples_are_the_first_queries_and_show_what_was_sent(healthy):
    shown = image_examples(healthy)
    assert [example["query_id"] for example in shown] == [record.id for record in healthy.queries[:6]]
    assert all(example["attack"] == "apgd:mainstay" for example in shown)
    texts = text_examples(healthy)
    assert {example["attack"] for example in texts} <= {"words:mainstay", "typos:mainstay"}
    assert all(example["before"] != example["after"] for example in texts)


def test_an_assembled_report_is_json_without_nan(healthy, setting):
    setting = replace(setting, queries=healthy.queries)
    judged = Judged(healthy, (), ("some-gate: why not",), healthy)
    report = assemble([judged], Profile("x", 60, ()), setting, "c")
    text = json.dumps(report, allow_nan=False)
    assert json.loads(text) == report
    assert {"model": "undefended", "what": "gate some-gate", "why": "why not"} in report["left_out"]
    natural = [row for row in report["rows"] if row["attack"] == "words:mainstay"]
    assert natural[0]["ssim"] is None


def test_numbers_that_json_cannot_hold_are_null_and_budgets_stay_exact():
    found = clean_json({"a": [float("nan"), float("inf")], "b": np.float64(8 / 255), "c": np.int64(3)})
    assert found == {"a": [None, None], "b": pytest.approx(8 / 255, rel=1e-9), "c": 3}
    assert f"{found['b'] * 255:g}" == "8"


def test_long_curves_are_thinned_and_keep_their_ends():
    curve = np.arange(2 * 1001, dtype=np.float64).reshape(2, 1001)
    thin = thinned(curve)
    assert [len(part) for part in thin] == [101, 101]
    assert (thin[0][0], thin[0][-1], thin[1][-1]) == (0, 1000, 2001)
    assert thinned(np.zeros((0, 0))) == []


def test_unit_titles_are_for_people():
    assert title(image_spec("apgd:mainstay", 8)) == "apgd:mainstay 8/255 12x1"
    assert title(text_spec("words:mainstay", 0.2)) == "words:mainstay words 0.2"


def test_evidence_is_searched_by_what_specs_have(healthy):
    found = healthy.find(method="apgd", aim="mainstay", purpose="suite", eps=8 / 255)
    assert [unit.spec.name for unit in found] == ["apgd:mainstay"]
    with pytest.raises(DataError, match="no 'colour'"):
        healthy.find(colour="red")


def test_a_database_without_one_side_is_refused(undefended, small_manifest, setting):
    blind = tuple(
        replace(record, image=None) if record.split == "database" else record
        for record in small_manifest.records
    )
    manifest = Manifest(small_manifest.folder, blind, small_manifest.label_names)
    with pytest.raises(DataError, match="database items with images"):
        evaluate_model(Contender("model", undefended), [], replace(setting, manifest=manifest))


def test_no_train_item_means_nothing_to_aim_by(undefended, small_manifest, setting):
    records = tuple(record for record in small_manifest.records if record.split != "train")
    manifest = Manifest(small_manifest.folder, records, small_manifest.label_names)
    with pytest.raises(DataError, match="labelled train items to aim by"):
        evaluate_model(Contender("model", undefended), [], replace(setting, manifest=manifest))
