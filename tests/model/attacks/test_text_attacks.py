"""Attacks on texts: in embedding space, by words and by typing errors; all within their limits."""

import pytest
import torch
from small_wordnet import write_wordnet
from tiny_hashers import LABELS, seeded

from model.attacks.base import Target
from model.attacks.batches import Batching, attack_in_batches
from model.attacks.mainstay import signs
from model.attacks.objectives import Mainstay, OwnCode
from model.attacks.registry import OBJECTIVES, TEXT_METHODS, build_attack, build_text_attack
from model.attacks.relaxation import Relaxation
from model.attacks.text_attacks import Typos
from model.attacks.text_limits import SubstitutionRule, broken_limits, label_words, word_budget, words
from model.attacks.text_model import TextModel, neighbourhood
from model.attacks.threat import embedding_threat
from model.attacks.victims import EmbeddingModel
from model.attacks.wordnet import read_thesaurus
from model.errors import RecipeError, UnknownName


@pytest.fixture(scope="module")
def model(undefended):
    return TextModel(undefended.hasher, undefended.codec)


@pytest.fixture(scope="module")
def rule(undefended, model):
    return SubstitutionRule(label_words(LABELS), neighbourhood(model, undefended.world.texts, 12))


@pytest.fixture(params=TEXT_METHODS)
def attack(request, rule):
    return build_text_attack(f"{request.param}:mainstay", rule)


def aim(undefended, queries, objective=None):
    known = undefended.knowledge(queries)
    return (objective or Mainstay()).target(known, generator=seeded(0))


def test_every_changed_text_is_within_its_limits_and_some_change(attack, model, undefended, queries):
    outcome = attack(model, queries.texts, aim(undefended, queries), generator=seeded(0))
    assert outcome.original == tuple(queries.texts)
    assert outcome.broken(attack.rule) == []
    for old, new, changed in zip(outcome.original, outcome.texts, outcome.changed.tolist(), strict=True):
        assert broken_limits(old, new, attack.rule) == []
        assert changed <= word_budget(old)
        assert changed == sum(a != b for a, b in zip(words(old), words(new), strict=True))
    assert outcome.changed.sum() > 0
    assert outcome.loss.mean() > outcome.clean_loss.mean()
    assert (outcome.loss >= outcome.clean_loss).all()


def test_losses_are_those_of_the_texts(attack, model, undefended, queries):
    target = aim(undefended, queries)
    outcome = attack(model, queries.texts, target, generator=seeded(0))
    codes = signs(model.logits(outcome.texts))
    torch.testing.assert_close(attack.objective(codes, target), outcome.loss)


def test_one_seed_one_result_and_an_untouched_model(attack, model, undefended, queries):
    before = {name: value.clone() for name, value in undefended.hasher.state_dict().items()}
    tower = undefended.hasher.text_tower()
    tower.train()
    target = aim(undefended, queries)
    tower.train()
    runs = [attack(model, queries.texts, target, generator=seeded(1)).texts for _ in range(2)]
    assert runs[0] == runs[1]
    assert tower.training
    assert all(p.grad is None for p in tower.parameters())
    tower.eval()
    assert all(torch.equal(v, before[n]) for n, v in undefended.hasher.state_dict().items())


def test_one_text_no_text_and_texts_without_words(attack, model, undefended, queries):
    target = aim(undefended, queries)
    one = attack(model, queries.texts[:1], target.rows(slice(0, 1)), generator=seeded(0))
    assert len(one.texts) == 1
    assert attack(model, [], target.rows(slice(0, 0)), generator=seeded(0)).texts == ()
    blank = attack(model, ["", " ... "], target.rows(slice(0, 2)), generator=seeded(0))
    assert blank.texts == ("", "...")
    assert blank.changed.tolist() == [0, 0]
    assert blank.queries.tolist() == [1, 1]


def test_a_text_does_not_depend_on_its_neighbours(model, rule, undefended, queries):
    attack, target = build_text_attack("words:mainstay", rule), aim(undefended, queries)
    order = torch.randperm(16, generator=seeded(0))
    straight = attack(model, queries.texts, target, generator=seeded(0))
    mixed = attack(model, [queries.texts[i] for i in order], target.rows(order), generator=seeded(0))
    assert [straight.texts[i] for i in order] == list(mixed.texts)


def test_queries_and_gradients_are_counted(model, rule, undefended, queries):
    target = aim(undefended, queries)
    substituted = build_text_attack("words:mainstay", rule, tries=5)(
        model, queries.texts, target, generator=seeded(0)
    )
    assert (substituted.queries > 1).all()
    # Two rounds at most: the budget of these texts is two words.
    assert (substituted.queries <= 1 + 2 * 5).all()
    assert ((substituted.backward >= 1) & (substituted.backward <= 2)).all()
    typed = build_text_attack("typos:mainstay", tries=7)(model, queries.texts, target, generator=seeded(0))
    assert (typed.backward == 0).all()
    assert (typed.queries <= 1 + 2 * 7).all()


def test_more_tries_are_no_worse_on_average(model, undefended, queries):
    target = aim(undefended, queries)
    losses = [
        build_text_attack("typos:mainstay", tries=tries)(
            model, queries.texts, target, generator=seeded(0)
        ).loss
        for tries in (2, 60)
    ]
    assert losses[1].mean() > losses[0].mean()


def test_the_gradient_picks_better_than_chance(model, rule, undefended, queries):
    """Three substitutions that the gradient likes do more than three that it likes least."""
    target = aim(undefended, queries)
    attack = build_text_attack("words:mainstay", rule, tries=2)
    outcome = attack(model, queries.texts, target, generator=seeded(0))

    class Contrary:
        name, targeted = "contrary", False

        def __call__(self, h, target):
            return -Mainstay()(h, target)

    slopes = model.word_slopes(queries.texts, target, Mainstay(), Relaxation())
    against = model.word_slopes(queries.texts, target, Contrary(), Relaxation())
    torch.testing.assert_close(torch.cat(slopes), -torch.cat(against))
    assert outcome.loss.mean() > outcome.clean_loss.mean()


def test_a_criterion_decides_what_is_kept(model, rule, undefended, queries):
    attack, target = build_text_attack("words:mainstay", rule), aim(undefended, queries)
    outcome = attack(
        model, queries.texts, target, generator=seeded(0), criterion=lambda z, _: torch.zeros(len(z))
    )
    assert outcome.texts == outcome.original


def test_label_words_move_only_with_a_thesaurus(model, undefended, tmp_path):
    texts = ["dog", "the Cat"]
    near = neighbourhood(model, undefended.world.texts, 5)
    target = Target.single(signs(model.logits(texts)))
    bare = SubstitutionRule(label_words(LABELS), lambda _: frozenset())
    stuck = build_text_attack("words:own-code", bare)(model, texts, target, generator=seeded(0))
    assert stuck.texts == tuple(texts)
    real = read_thesaurus(write_wordnet(tmp_path / "wordnet"))
    free = SubstitutionRule(label_words(LABELS, real), near, real)
    moved = build_text_attack("words:own-code", free)(
        model, texts, target, generator=seeded(0), criterion=lambda z, t: -(z * t.anchor).sum(1)
    )
    assert moved.texts[0] == "hound"
    assert moved.broken(free) == []


def test_capitals_are_kept(model, undefended):
    rule = SubstitutionRule(frozenset(), lambda word: frozenset({"wheel"}))
    target = Target.single(signs(model.logits(["Dog"] * 3)))
    attack = build_text_attack("words:own-code", rule)
    always = iter(range(1000))
    found = attack(
        model, ["Dog", "DOG", "dog"], target, generator=seeded(0),
        criterion=lambda z, _: torch.full((len(z),), float(next(always))),
    )  # fmt: skip
    assert found.texts == ("Wheel", "WHEEL", "wheel")


def test_words_past_the_tokenizers_end_are_left_alone(model, rule, undefended):
    long = " ".join(["running"] * 60)
    target = Target.single(signs(model.logits([long])))
    outcome = build_text_attack("words:own-code", rule)(model, [long], target, generator=seeded(0))
    assert outcome.broken(rule) == []
    slopes = model.word_slopes([long], target, OwnCode(1.0), Relaxation())[0]
    assert slopes.shape[0] == 60
    assert (slopes[-1] == 0).all()
    assert (slopes[0] != 0).any()


def test_neighbours_are_the_nearest_words_by_cosine(model, undefended):
    texts = undefended.world.texts
    near = neighbourhood(model, texts, 3)
    known = sorted({w.lower() for t in texts for w in words(t) if w.isalpha() and len(w) > 1})
    vectors = model.word_vectors(known)
    for word in ("furry", "metal"):
        cosine = {
            w: float(torch.cosine_similarity(vectors[word], vectors[w], dim=0)) for w in known if w != word
        }
        assert near(word) == frozenset(sorted(cosine, key=cosine.get)[-3:])
    assert len(near("zebra")) == 3
    assert neighbourhood(model, ["1 2 3"], 3)("dog") == frozenset()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", ["fgsm", "pgd", "apgd", "nes", "noise"])
def test_embeddings_are_attacked_by_the_same_loop(method, norm, undefended, queries):
    """The papers' setting: eps in units of the table's RMS; padding stays where it is."""
    texts = [*queries.texts[:7], "cat"]
    tokens = undefended.codec.encode(texts)
    model, x = EmbeddingModel.of(undefended.hasher, tokens)
    threat = embedding_threat(undefended.hasher.text_tower(), 1.0, 12, norm)
    with torch.no_grad():
        target = Target.single(signs(model(x)))
    outcome = build_attack(f"{method}:own-code", threat)(model, x, target, generator=seeded(0))
    assert threat.contains(outcome.x_adv, x, 1e-4).all()
    assert outcome.loss.mean() > outcome.clean_loss.mean()
    if method in ("pgd", "apgd", "fgsm"):
        padding = ~undefended.hasher.text_tower().mask(tokens)
        assert torch.equal(outcome.x_adv[padding], x[padding])


def test_embedded_texts_go_in_batches_with_their_masks(undefended, queries):
    model, x = EmbeddingModel.of(undefended.hasher, undefended.codec.encode([*queries.texts, "cat"]))
    threat = embedding_threat(undefended.hasher.text_tower(), 1.0, 12)
    with torch.no_grad():
        target = Target.single(signs(model(x)))
    attack = build_attack("fgsm:own-code", threat)
    whole = attack(model, x, target, generator=seeded(0))
    parts = attack_in_batches(attack, model, x, target, generator=seeded(0), batching=Batching(5))
    torch.testing.assert_close(whole.x_adv, parts.x_adv)


def test_names_are_method_and_aim(attack):
    assert attack.name.endswith(":mainstay")
    assert set(TEXT_METHODS) == {"words", "typos"}
    assert build_text_attack("typos:p2p").objective is OBJECTIVES["p2p"]


@pytest.mark.parametrize("name", ["words:nothing", "pgd:mainstay", "mainstay"])
def test_unknown_text_attacks_are_refused(name):
    with pytest.raises(UnknownName):
        build_text_attack(name)


def test_substitution_needs_its_rule():
    with pytest.raises(RecipeError, match="SubstitutionRule"):
        build_text_attack("words:mainstay")


def test_no_tries_are_refused():
    with pytest.raises(RecipeError, match="tries"):
        Typos(tries=0)
