"""Every registered tower: shapes, one training step, masks, embeddings, determinism, defaults written out."""

import copy
import io

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from torch.nn import functional

from model.errors import ArtefactError, MissingTower, RecipeError, UnknownName
from model.hashers.base import CrossModalHasher, to_bits
from model.hashers.create import DEFAULT_IMAGE, DEFAULT_TEXT, create_hasher
from model.hashers.heads import drawing_from
from model.hashers.registry import IMAGE_TOWERS, TEXT_TOWERS, build_hasher, resolve
from model.hashers.text import BagOfWordsTower
from model.hashers.weights import restore_hasher, to_arrays

TEXTS = ["a red dog runs", "two blue cats sleep on a mat", "the dog and the cat", "a red mat", "blue sky"] * 4
VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
IMAGES = {
    "residual_cnn": {"size": 32, "stem": 8, "widths": [8, 12], "pools": [0, 2]},
    "hf_backbone": {"config": VIT, "size": 32},
    "features": {"dim": 7, "width": 9},
}
TOKENS = {"size": 60, "min_frequency": 1}
TEXT = {
    "conv": {"dim": 8, "width": 8, "tokenizer": TOKENS},
    "transformer": {"dim": 8, "heads": 2, "layers": 1, "tokenizer": TOKENS},
    "hf_encoder": {"config": BERT, "max_length": 16, "tokenizer": TOKENS},
    "bag_of_words": {"dim": 8, "tokenizer": {"kind": "word", "size": 60, "min_frequency": 1}},
    "features": {"dim": 5, "width": 9},
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def created(image=None, text=None, bits=16, seed=0):
    request = {
        "image": None if image is None else {"kind": image, **copy.deepcopy(IMAGES[image])},
        "text": None if text is None else {"kind": text, **copy.deepcopy(TEXT[text])},
    }
    return create_hasher(request, bits, TEXTS, seeded(seed))


def inputs(kind, made, n=6):
    if kind != "features":
        return torch.rand(n, 3, 32, 32, generator=seeded())
    (table,) = made.architecture.values()
    return torch.randn(n, table["dim"], generator=seeded())


def step(logits_of, tower):
    """One step towards random codes; returns the loss before and after."""
    optimiser = torch.optim.Adam(tower.parameters(), lr=0.01)
    losses = []
    for _ in range(2):
        logits = logits_of()
        wanted = (torch.arange(logits.numel()).view_as(logits) % 3 == 0).float()
        loss = functional.binary_cross_entropy_with_logits(logits, wanted)
        optimiser.zero_grad()
        loss.backward()
        losses.append(loss.item())
        optimiser.step()
    return losses


def test_these_tests_cover_the_registry():
    assert set(IMAGES) == set(IMAGE_TOWERS)
    assert set(TEXT) == set(TEXT_TOWERS)


@pytest.mark.parametrize("kind", IMAGE_TOWERS)
def test_image_tower_trains_a_step(kind):
    made = created(image=kind)
    tower, x = made.hasher.image_tower(), inputs(kind, made)
    assert tower.features(x).shape == (6, tower.width)
    assert tower(x).shape == (6, 16)
    before, after = step(lambda: tower(x), tower)
    assert after < before
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in tower.parameters())


@pytest.mark.parametrize("kind", TEXT_TOWERS)
def test_text_tower_trains_a_step(kind):
    made = created(text=kind)
    tower = made.hasher.text_tower()
    tokens = inputs(kind, made) if kind == "features" else made.codec.encode(TEXTS[:6])
    assert tower.embed(tokens).shape == (6, tower.mask(tokens).shape[1], tower.embedding_width)
    assert tower.features(tokens).shape == (6, tower.width)
    assert tower.embedding_rms() > 0
    before, after = step(lambda: tower(tokens), tower)
    assert after < before


@pytest.mark.parametrize("kind", [k for k in TEXT_TOWERS if k != "features"])
def test_padding_does_not_change_a_code(kind):
    made = created(text=kind)
    made.hasher.eval()
    for text in ("a red dog", "", "the dog and the cat"):
        short, long = made.codec.encode([text]), made.codec.encode([text], length=16)
        assert long.shape == (1, 16)
        assert torch.allclose(made.hasher.hash_text(short), made.hasher.hash_text(long), atol=1e-5)


@pytest.mark.parametrize("kind", TEXT_TOWERS)
def test_embeddings_are_a_way_in_with_gradients(kind):
    made = created(text=kind)
    hasher = made.hasher.eval()
    tower = hasher.text_tower()
    tokens = inputs(kind, made) if kind == "features" else made.codec.encode(TEXTS[:6])
    embeddings = tower.embed(tokens).detach().requires_grad_()
    h = hasher.hash_embeddings(embeddings, tower.mask(tokens))
    assert torch.equal(h, hasher.hash_text(tokens))
    (gradient,) = torch.autograd.grad(h.sum(), embeddings)
    kept = gradient[tower.mask(tokens)]
    assert torch.isfinite(gradient).all()
    assert kept.abs().sum() > 0
    if kind not in ("transformer", "hf_encoder"):
        assert (gradient[~tower.mask(tokens)] == 0).all()


@pytest.mark.parametrize("kind", [k for k in TEXT_TOWERS if k != "features"])
def test_row_of_nothing_but_padding_is_finite(kind):
    made = created(text=kind)
    made.hasher.eval()
    tokens = torch.full((2, 5), made.hasher.text_tower().padding_id)
    assert torch.isfinite(made.hasher.hash_text(tokens)).all()


@pytest.mark.parametrize("size", [32, 48, 64, 128])
def test_residual_tower_takes_any_side(size):
    tower = created(image="residual_cnn").hasher.image_tower().eval()
    assert tower(torch.rand(2, 3, size, size)).shape == (2, 16)


def test_residual_tower_normalises_inside():
    plain = build_hasher({"image": {"kind": "residual_cnn", **IMAGES["residual_cnn"]}}, 16).eval()
    options = {**IMAGES["residual_cnn"], "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    bare = build_hasher({"image": {"kind": "residual_cnn", **options}}, 16).eval()
    bare.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 32, 32)
    assert torch.allclose(plain.image(x), bare.image((x - 0.5) / 0.25), atol=1e-6)


def test_default_model_is_small():
    # The vocabulary of a large corpus is full: 4000 entries of 64 numbers.
    text = {**DEFAULT_TEXT, "vocabulary_size": 4000}
    hasher = build_hasher({"image": dict(DEFAULT_IMAGE), "text": text}, 64)
    assert len(save(to_arrays(hasher))) < 4_800_000
    assert 500_000 < sum(p.numel() for p in hasher.image_tower().parameters()) < 900_000


@pytest.mark.parametrize("bits", range(16, 257, 48))
def test_widths(bits):
    made = created("residual_cnn", "conv", bits)
    made.hasher.eval()
    image, text = made.hasher(torch.rand(2, 3, 32, 32), made.codec.encode(TEXTS[:2]))
    assert image.shape == text.shape == (2, bits)
    assert image.abs().max() < 1
    assert made.hasher(None, None) == (None, None)


@pytest.mark.parametrize("bits", [0, 8, 17, 264, -16, True, 16.5, "64"])
def test_other_widths_are_refused(bits):
    with pytest.raises(RecipeError, match="multiple of 8"):
        build_hasher({"image": {"kind": "residual_cnn"}}, bits)


def test_zero_counts_as_a_set_bit():
    assert to_bits(torch.tensor([-1.0, -0.0, 0.0, 1e-9])).tolist() == [False, True, True, True]


def test_missing_towers():
    image, text = created(image="residual_cnn").hasher, created(text="conv").hasher
    with pytest.raises(MissingTower, match="only an image tower"):
        image.hash_text(torch.ones(1, 1, dtype=torch.int64))
    with pytest.raises(MissingTower, match="only a text tower"):
        text.hash_image(torch.rand(1, 3, 32, 32))
    with pytest.raises(MissingTower, match="neither"):
        CrossModalHasher(None, None)
    with pytest.raises(ValueError, match="same number of bits"):
        CrossModalHasher(image.image, created(text="conv", bits=32).hasher.text)


# --- randomness ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("image", "text"), [("residual_cnn", "conv"), ("hf_backbone", "hf_encoder")])
def test_weights_follow_from_the_generator_alone(image, text):
    torch.rand(3)  # wherever the process's own generator stands
    first = created(image, text, seed=1).hasher.state_dict()
    torch.rand(5)
    again, other = (
        created(image, text, seed=1).hasher.state_dict(),
        created(image, text, seed=2).hasher.state_dict(),
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_drawing_from_leaves_the_process_generator_alone_and_moves_its_own():
    generator, before = seeded(), torch.get_rng_state()
    with drawing_from(generator):
        first = torch.rand(4)
    with pytest.raises(KeyError), drawing_from(generator):
        second = torch.rand(4)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.rand(4, generator=seeded()))


# --- the architecture ------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [None, *IMAGE_TOWERS])
@pytest.mark.parametrize("text", [None, "conv", "hf_encoder", "features"])
def test_architecture_rebuilds_the_hasher(image, text):
    if image is None and text is None:
        return
    made = created(image, text)
    assert resolve(made.architecture) == made.architecture
    weights = save(to_arrays(made.hasher))
    again = restore_hasher(made.architecture, 16, weights, "model.safetensors")
    assert not again.training
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in made.hasher.state_dict().items())


@pytest.mark.parametrize(
    ("architecture", "error", "message"),
    [
        ({}, RecipeError, "got neither"),
        ({"image": None, "text": None}, RecipeError, "got neither"),
        ({"sound": {}}, RecipeError, "wanted image and text, got sound"),
        ({"image": {"kind": "vgg"}}, UnknownName, "unknown image tower 'vgg'; known: features, hf_backbone"),
        ({"text": {}}, UnknownName, "unknown text tower 'None'"),
        ({"image": ["residual_cnn"]}, RecipeError, "wanted a table, got list"),
        ({"image": {"kind": "residual_cnn", "depth": 3}}, RecipeError, "unknown depth; known: "),
        ({"image": {"kind": "residual_cnn", "size": 4096}}, RecipeError, "size: wanted 16 to 1024, got 4096"),
        ({"image": {"kind": "residual_cnn", "widths": []}}, RecipeError, "wanted 1 to 6 entries, got 0"),
        ({"image": {"kind": "residual_cnn", "widths": [8, "x"]}}, RecipeError, "wanted int, got 'x'"),
        ({"image": {"kind": "residual_cnn", "widths": 8}}, RecipeError, "wanted a list, got 8"),
        ({"image": {"kind": "residual_cnn", "mean": [0, float("nan"), 0]}}, RecipeError, "finite"),
        ({"image": {"kind": "residual_cnn", "size": True}}, RecipeError, "wanted int, got True"),
        ({"image": {"kind": "residual_cnn", "pools": [6]}}, RecipeError, "cannot be built: pools"),
        ({"image": {"kind": "residual_cnn", "mean": [0.5]}}, RecipeError, "cannot be built"),
        ({"image": {"kind": "features"}}, RecipeError, "missing dim"),
        ({"text": {"kind": "conv"}}, RecipeError, "missing vocabulary_size"),
        ({"text": {"kind": "bag_of_words", "vocabulary_size": 9, "idf": 1}}, RecipeError, "wanted bool"),
        (
            {"text": {"kind": "transformer", "vocabulary_size": 9, "heads": 3}},
            RecipeError,
            "multiple of heads",
        ),
        ({"text": {"kind": "hf_encoder", "config": []}}, RecipeError, "wanted dict"),
    ],
)
def test_bad_architectures_are_refused_by_name(architecture, error, message):
    with pytest.raises(error, match=message):
        build_hasher(architecture, 16)


def test_bad_requests_are_refused():
    for text, message in (
        ({"kind": "conv", "max_length": 0}, "max_length"),
        ([1], "wanted a table, got list"),
        ({"kind": "conv", "tokenizer": {"kind": "wordpiece"}}, "wanted bpe or word"),
        ({"kind": "conv", "tokenizer": {"sise": 3}}, "unknown sise"),
    ):
        with pytest.raises(RecipeError, match=message):
            create_hasher({"text": text}, 16, TEXTS, seeded())


# --- bag of words ----------------------------------------------------------------------------------


def test_bag_of_words_is_a_tf_idf_product():
    made = created(text="bag_of_words")
    tower = made.hasher.text_tower().eval()
    assert isinstance(tower, BagOfWordsTower)
    tokens = made.codec.encode(TEXTS[:3])
    counts = torch.stack([torch.bincount(row, minlength=tower.vocabulary_size) for row in tokens]).float()
    counts[:, tower.padding_id] = 0
    weighted = counts * tower.idf / counts.sum(1, keepdim=True)
    mean = weighted @ tower.table.weight
    assert torch.allclose(tower.features(tokens), torch.relu(tower.norm(mean)), atol=1e-5)


def test_idf_matches_its_formula_and_can_be_off():
    made = created(text="bag_of_words")
    tower = made.hasher.text_tower()
    dog = made.codec.encode(["dog"])[0, 1]
    held = sum("dog" in text.split() for text in TEXTS)
    assert tower.idf[dog].item() == pytest.approx(np.log((1 + len(TEXTS)) / (1 + held)) + 1)
    assert tower.idf[made.codec.encode(["dog"])[0, 0]] == 1  # the start token, in every text
    off = build_hasher(
        {"text": {"kind": "bag_of_words", "vocabulary_size": 60, "idf": False}}, 16
    ).text_tower()
    off.set_idf(made.codec.encode(TEXTS))
    assert (off.idf == 1).all()


def test_word_order_matters_to_all_but_the_bag():
    for kind in ("conv", "transformer", "hf_encoder", "bag_of_words"):
        made = created(text=kind)
        made.hasher.eval()
        one, two = made.hasher.hash_text(made.codec.encode(["dog red mat", "mat red dog"]))
        assert torch.allclose(one, two, atol=1e-6) == (kind == "bag_of_words")


def test_feature_scale_is_the_unit_of_budgets():
    tower = created(text="features").hasher.text_tower()
    tower.set_scale(torch.full((3, 5), -2.0))
    assert tower.embedding_rms() == 2


# --- weights ---------------------------------------------------------------------------------------


def arrays():
    made = created(image="features")
    return made.architecture, to_arrays(made.hasher)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("image.hash.bias"), "missing tensors image.hash.bias"),
        (lambda a: a.update(extra=np.zeros(2)), "not wanted extra"),
        (lambda a: a.update({f"x{i}": np.zeros(1) for i in range(8)}), "and 3 more"),
        (lambda a: a.update({"image.hash.bias": np.zeros(17, np.float32)}), r"wanted \(16,\).*got \(17,\)"),
        (lambda a: a.update({"image.hash.bias": np.zeros(16, np.float64)}), "float64"),
        (lambda a: a.update({"image.hash.bias": np.full(16, np.nan, np.float32)}), "finite"),
    ],
)
def test_weights_unlike_the_architecture_are_refused(change, message):
    architecture, tensors = arrays()
    change(tensors)
    with pytest.raises(ArtefactError, match=message):
        restore_hasher(architecture, 16, save(tensors), "w")


def lying_header(tensors):
    data = save(tensors)
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(b"[16]", b"[99]")
    return data[:8] + header + data[8 + length :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[:7],
        lambda data: (2**62).to_bytes(8, "little") + data[8:],
        lambda data: data[:8] + b"{" * 100,
        lambda data: io.BytesIO(b"\x80\x04pickle").getvalue(),
    ],
)
def test_damaged_safetensors_are_refused(damage):
    architecture, tensors = arrays()
    with pytest.raises(ArtefactError, match="wanted safetensors"):
        restore_hasher(architecture, 16, damage(save(tensors)), "w")


def test_safetensors_header_that_lies_is_refused():
    architecture, tensors = arrays()
    with pytest.raises(ArtefactError):
        restore_hasher(architecture, 16, lying_header(tensors), "w")


def test_architecture_that_asks_for_the_moon_takes_no_memory():
    _, tensors = arrays()
    huge = {"image": {"kind": "features", "dim": 1_000_000, "width": 8192}}
    with pytest.raises(ArtefactError, match=r"wanted .*(8192|1000000)"):
        restore_hasher(huge, 16, save(tensors), "w")
    with pytest.raises(ArtefactError, match="cannot be built"):
        restore_hasher({"image": {"kind": "vgg"}}, 16, save(tensors), "w")


def test_half_precision_state_is_saved_as_float32():
    hasher = created(image="residual_cnn").hasher.bfloat16()
    kinds = {tensor.dtype for tensor in to_arrays(hasher).values()}
    assert kinds == {np.dtype("float32"), np.dtype("int64")}
