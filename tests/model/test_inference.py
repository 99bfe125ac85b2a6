"""The encoder: verified loading, codes that depend on their input alone, clear refusals."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from artefact_parts_made import IMAGE, SIZE, TEXT, TEXTS, make_parts, picture_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from model import inference
from model.artefact import read_card, save_artefact
from model.data.text import read_codec
from model.errors import ArtefactError, ImageError, MissingTower, ModelError
from model.hashers.weights import restore_hasher
from model.inference import MARGIN, MAX_BATCH, Encoder, choose_device

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
HUB = (
    {"kind": "hf_backbone", "config": VIT, "size": SIZE},
    {"kind": "hf_encoder", "config": BERT, "max_length": 12},
)
PAIRS = {
    "small": (IMAGE, TEXT),
    "hub": HUB,
    "bag": (IMAGE, {"kind": "bag_of_words", "dim": 8, "tokenizer": {"min_frequency": 1}}),
    "transformer": (IMAGE, {"kind": "transformer", "dim": 8, "heads": 2, "tokenizer": {"min_frequency": 1}}),
}


@pytest.fixture(scope="module")
def parts():
    return make_parts(bits=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, parts):
    return save_artefact(tmp_path_factory.mktemp("models"), "tiny", make_parts(bits=64))


@pytest.fixture(scope="module")
def encoder(folder):
    return Encoder.load(folder, "cpu")


def load(tmp_path, **options):
    return Encoder.load(save_artefact(tmp_path, "tiny", make_parts(**options)), "cpu")


def pictures(encoder, n):
    return [encoder.decode(picture_bytes(i)) for i in range(n)]


def replace_weights(folder, tensors):
    data = save(tensors)
    (folder / "model.safetensors").write_bytes(data)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["model.safetensors"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    path.write_text(json.dumps(manifest))


# --- what it says of itself ------------------------------------------------------------------------


def test_attributes(encoder, folder, parts):
    card = read_card(folder)
    assert (encoder.bits, encoder.model_name, encoder.model_version) == (64, "tiny", "1")
    assert encoder.digest == card.digest
    assert encoder.preprocessing_digest == parts.preprocessing.digest()
    assert encoder.modalities == {"image", "text"}
    assert encoder.calibration["image-to-text"][0] == 1.0
    assert len(encoder.calibration["image-to-text"]) == 65


def test_model_without_calibration(tmp_path):
    assert load(tmp_path, calibration={}).calibration is None


# --- codes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS)
def test_codes_are_the_signs_of_the_towers(tmp_path, pair):
    image, text = PAIRS[pair]
    parts = make_parts(image, text, 32)
    folder = save_artefact(tmp_path, "tiny", parts)
    encoder = Encoder.load(folder, "cpu")
    hasher = restore_hasher(parts.architecture, 32, (folder / "model.safetensors").read_bytes(), "w")
    array = encoder.decode(picture_bytes(1))
    with torch.inference_mode():
        x = torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255
        assert np.array_equal(encoder.encode_images([array]), (hasher.image(x) >= 0).numpy())
        table = parts.architecture["text"]
        codec = read_codec(parts.tokenizer, table["max_length"], table.get("padding_id", 0))
        wanted = hasher.text(codec.encode([TEXTS[1]])) >= 0
    assert np.array_equal(encoder.encode_texts([TEXTS[1]]), wanted.numpy())


@pytest.mark.parametrize("pair", PAIRS)
def test_a_batch_gives_the_codes_of_its_members_alone(tmp_path, pair):
    encoder = load(tmp_path, image=PAIRS[pair][0], text=PAIRS[pair][1], bits=64)
    arrays = pictures(encoder, MAX_BATCH + 5)
    together = encoder.encode_images(arrays)
    assert together.shape == (MAX_BATCH + 5, 64)
    assert together.dtype == np.bool_
    assert np.array_equal(together, np.concatenate([encoder.encode_images([a]) for a in arrays]))
    assert np.array_equal(
        together, np.concatenate([encoder.encode_images(arrays[i : i + 7]) for i in range(0, 69, 7)])
    )
    texts = [" ".join(TEXTS[i % 5].split()[: i % 6]) + f" {i}" for i in range(MAX_BATCH + 5)]
    together = encoder.encode_texts(texts)
    assert np.array_equal(together, np.concatenate([encoder.encode_texts([t]) for t in texts]))
    assert np.array_equal(together[::-1], encoder.encode_texts(texts[::-1]))


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(12)), size=st.integers(1, 12))
def test_neither_order_nor_batch_size_changes_a_code(encoder, order, size):
    arrays = pictures(encoder, 12)
    wanted = encoder.encode_images(arrays)
    mixed = [arrays[i] for i in order]
    found = np.concatenate([encoder.encode_images(mixed[i : i + size]) for i in range(0, 12, size)])
    assert np.array_equal(found, wanted[list(order)])


def test_logits_of_a_batch_differ_by_far_less_than_the_margin(encoder):
    block = pictures(encoder, MAX_BATCH)
    with torch.inference_mode():
        together = encoder._image_logits(block)
        alone = torch.cat([encoder._image_logits([array]) for array in block])
    size = alone.abs().amax(1, keepdim=True).clamp(min=1)
    assert ((together - alone).abs() / size).max() < MARGIN / 5


def test_rows_near_zero_are_decided_alone(encoder, monkeypatch):
    """With noise of half a margin put on every batch of more than one, the codes still do not move."""
    arrays = pictures(encoder, 40)
    wanted = encoder.encode_images(arrays)
    honest, calls = encoder._image_logits, []

    def noisy(block):
        logits = honest(block)
        calls.append(len(block))
        if len(block) > 1:
            noise = torch.rand(logits.shape, generator=torch.Generator().manual_seed(len(calls))) - 0.5
            logits = logits + MARGIN * noise.sign() * 0.5
        return logits

    monkeypatch.setattr(encoder, "_image_logits", noisy)
    assert np.array_equal(encoder.encode_images(arrays), wanted)
    assert calls[0] == 40


def test_exactly_zero_is_a_set_bit(tmp_path):
    parts = make_parts()
    dead = {n: np.zeros_like(t) if ".hash." in n else t for n, t in parts.tensors.items()}
    encoder = Encoder.load(save_artefact(tmp_path, "tiny", dataclasses.replace(parts, tensors=dead)), "cpu")
    assert encoder.encode_images(pictures(encoder, 3)).all()
    assert encoder.encode_texts(["red", ""]).all()


def test_nothing_in_nothing_out(encoder):
    assert encoder.encode_images([]).shape == (0, 64)
    assert encoder.encode_texts([]).shape == (0, 64)


@pytest.mark.parametrize("text", ["", " ", "\ud800", "a\0b", "x" * 1_000_000, "犬" * 9999, "red " * 300_000])
def test_any_text_has_a_code(encoder, text):
    assert np.array_equal(encoder.encode_texts([text, "red dog"])[:1], encoder.encode_texts([text]))


def test_training_mode_is_off(tmp_path):
    encoder = load(tmp_path, text={**TEXT, "dropout": 0.5})
    assert np.array_equal(encoder.encode_texts(TEXTS), encoder.encode_texts(TEXTS))


def test_loading_twice_gives_the_same_codes(encoder, folder):
    again = Encoder.load(folder)
    arrays = pictures(encoder, 9)
    assert np.array_equal(again.encode_images(arrays), encoder.encode_images(arrays))


def test_warm_up_changes_nothing(encoder):
    arrays = pictures(encoder, 2)
    before = encoder.encode_images(arrays)
    encoder.warm_up()
    assert np.array_equal(encoder.encode_images(arrays), before)


def test_codes_do_not_depend_on_the_number_of_threads(encoder):
    arrays, texts, before = pictures(encoder, 9), TEXTS[:9], torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append((encoder.encode_images(arrays), encoder.encode_texts(texts)))
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(one, two) for one, two in zip(*found, strict=True))


# --- pictures --------------------------------------------------------------------------------------


def test_decode_thumbnail_and_type(encoder):
    data = picture_bytes(3, 80, "JPEG")
    assert encoder.decode(data).shape == (SIZE, SIZE, 3)
    assert Encoder.image_type(data) == "image/jpeg"
    assert Encoder.image_type(Encoder.thumbnail(picture_bytes(3, 80), 16)) == "image/jpeg"
    with pytest.raises(ImageError):
        encoder.decode(b"no picture")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((SIZE, SIZE, 4), np.uint8),
        np.zeros((SIZE, SIZE), np.uint8),
        np.zeros((SIZE + 1, SIZE, 3), np.uint8),
        np.zeros((SIZE, SIZE, 3), np.float32),
    ],
)
def test_arrays_of_another_shape_or_type_are_refused(encoder, array):
    with pytest.raises(ValueError, match=r"wanted uint8 \(32, 32, 3\), got"):
        encoder.encode_images([np.zeros((SIZE, SIZE, 3), np.uint8), array])


# --- one-sided models and features -----------------------------------------------------------------


def test_image_only_model(tmp_path):
    encoder = load(tmp_path, text=None)
    encoder.warm_up()
    assert encoder.modalities == {"image"}
    assert encoder.encode_images(pictures(encoder, 2)).shape == (2, 16)
    with pytest.raises(MissingTower, match="tiny/1 reads no texts"):
        encoder.encode_texts(["red"])


def test_text_only_model(tmp_path):
    encoder = load(tmp_path, image=None)
    encoder.warm_up()
    assert encoder.modalities == {"text"}
    assert encoder.encode_texts(TEXTS[:2]).shape == (2, 16)
    for call in (lambda: encoder.encode_images([]), lambda: encoder.decode(picture_bytes(1))):
        with pytest.raises(MissingTower, match="tiny/1 reads no images"):
            call()


def test_feature_model(tmp_path):
    encoder = load(tmp_path, image={"kind": "features", "dim": 6}, text={"kind": "features", "dim": 4})
    encoder.warm_up()
    assert encoder.modalities == frozenset()
    vectors = np.random.default_rng(0).normal(size=(70, 6)).astype(np.float32)
    together = encoder.encode_features("image", vectors)
    assert np.array_equal(
        together, np.concatenate([encoder.encode_features("image", v[None]) for v in vectors])
    )
    assert encoder.encode_features("text", np.ones((2, 4), np.float32)).shape == (2, 16)
    for bad in (np.ones((2, 5), np.float32), np.ones(6, np.float32)):
        with pytest.raises(ValueError, match=r"wanted vectors \(n, 6\)"):
            encoder.encode_features("image", bad)
    with pytest.raises(MissingTower):
        encoder.encode_images([])


def test_model_of_pictures_takes_no_features(encoder):
    for side in ("image", "text", "sound"):
        with pytest.raises(MissingTower, match=f"reads no {side} features"):
            encoder.encode_features(side, np.ones((1, 4), np.float32))


# --- loading what is damaged -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "calibration.json", "README.md"])
def test_damaged_artefact_is_not_loaded(tmp_path, monkeypatch, name):
    folder = save_artefact(tmp_path, "tiny", make_parts())
    with (folder / name).open("ab") as file:
        file.write(b" ")
    monkeypatch.setattr(inference, "restore_hasher", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(ArtefactError, match=name.replace(".", r"\.")):
        Encoder.load(folder, "cpu")


def test_weights_of_another_model_are_refused(tmp_path):
    folder = save_artefact(tmp_path, "tiny", make_parts())
    replace_weights(folder, make_parts(bits=24).tensors)
    with pytest.raises(ArtefactError, match=r"hash[.a-z0-9]*: wanted \(16"):
        Encoder.load(folder, "cpu")


def test_infinite_weights_are_refused(tmp_path):
    folder = save_artefact(tmp_path, "tiny", make_parts())
    tensors = dict(make_parts().tensors)
    tensors["image.hash.bias"] = np.full(16, np.inf, np.float32)
    replace_weights(folder, tensors)
    with pytest.raises(ArtefactError, match="finite"):
        Encoder.load(folder, "cpu")


def test_overflow_at_run_time_is_an_error_and_no_code(tmp_path):
    parts = make_parts()
    huge = {n: np.full_like(t, 3e38) if n.endswith("hash.weight") else t for n, t in parts.tensors.items()}
    encoder = Encoder.load(save_artefact(tmp_path, "tiny", dataclasses.replace(parts, tensors=huge)), "cpu")
    with pytest.raises(ModelError, match="wanted finite logits"):
        encoder.encode_images(pictures(encoder, 1))


def test_towers_and_their_readers_must_fit(tmp_path):
    parts = make_parts()
    for changes, message in (
        ({"preprocessing": None}, "image: a residual_cnn tower and none to read its input"),
        ({"tokenizer": None}, "text: a conv tower and none to read its input"),
        ({"tokenizer": "{}"}, "wanted a tokenizer"),
        ({"tokenizer": "\x00"}, "wanted a tokenizer"),
    ):
        folder = save_artefact(tmp_path, "tiny", dataclasses.replace(parts, **changes))
        with pytest.raises(ArtefactError, match=message):
            Encoder.load(folder, "cpu")


def test_tokenizer_without_a_tower_that_reads_tokens(tmp_path):
    tokenizer = make_parts().tokenizer
    for text, message in (({"kind": "features", "dim": 4}, "got 'features'"), (None, "got None")):
        folder = save_artefact(tmp_path, "tiny", make_parts(text=text, tokenizer=tokenizer))
        with pytest.raises(ArtefactError, match=message):
            Encoder.load(folder, "cpu")


def test_vocabulary_larger_than_the_table_is_refused(tmp_path):
    small = {**TEXT, "tokenizer": {"size": 40, "min_frequency": 1}}
    folder = save_artefact(tmp_path, "tiny", make_parts(text=small, tokenizer=make_parts().tokenizer))
    with pytest.raises(ArtefactError, match=r"tokenizer\.json: wanted at most 40 entries"):
        Encoder.load(folder, "cpu")


# --- devices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tpu-pod", "", "cuda:x", "meta", "mps"])
def test_devices_that_are_refused(name):
    with pytest.raises(ModelError, match="device: wanted auto, cpu, cuda or cuda:N"):
        choose_device(name)


def test_device_follows_the_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ModelError, match="this machine has 0 CUDA devices"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ModelError, match="this machine has 2"):
        choose_device("cuda:2")


def test_process_wide_settings_are_as_before(encoder):
    names = ("enabled", "deterministic", "benchmark", "allow_tf32")
    before = [getattr(torch.backends.cudnn, name) for name in names]
    encoder.encode_texts(["red"])
    assert [getattr(torch.backends.cudnn, name) for name in names] == before
