"""Hugging Face backbones and encoders: tiny random ones of each family, and real loading from a folder."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional

from model.errors import RecipeError
from model.hashers.create import create_hasher
from model.hashers.hub import clean_config, make_config, make_model
from model.hashers.hub_image import CLIP, IMAGENET, SYMMETRIC, statistics
from model.hashers.registry import build_hasher
from model.hashers.weights import restore_hasher, to_arrays

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
FAMILIES = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "mobilenet_v2": {"depth_multiplier": 0.25, "finegrained_output": False},
    "vit": SMALL,
    "clip_vision_model": SMALL,
    "dinov2": SMALL,
    "siglip_vision_model": SMALL,
}
ENCODERS = {
    "bert": {},
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
    "roberta": {},
    "mpnet": {},
}
WORDS = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "a", "red", "dog", "blue", "cat"])}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def encoder_config(kind, **more):
    small = {k: v for k, v in SMALL.items() if k not in ("image_size", "patch_size")}
    own = ENCODERS[kind] or small
    return {
        "model_type": kind,
        **own,
        "vocab_size": 7,
        "max_position_embeddings": 40,
        "pad_token_id": 0,
        **more,
    }


def save_model(folder, config):
    """A random model of `config` in the Hugging Face format, weights in safetensors; returns it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = make_model(config)
    model.save_pretrained(folder, safe_serialization=True)
    return model


def save_tokenizer(folder):
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=40
    )
    fast.save_pretrained(folder)


def image_request(source, **more):
    return {"image": {"kind": "hf_backbone", "source": str(source), "size": 32, **more}}


# --- families --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("family", FAMILIES)
def test_backbone_of_each_family_trains_a_step_from_a_tiny_configuration(family, size):
    table = {"kind": "hf_backbone", "config": {"model_type": family, **FAMILIES[family]}, "size": size}
    made = create_hasher({"image": table}, 16, [], seeded())
    tower, x = made.hasher.image_tower(), torch.rand(4, 3, size, size, generator=seeded())
    assert tower.features(x).shape == (4, tower.width)
    optimiser = torch.optim.Adam(tower.parameters(), lr=0.003)
    wanted = (torch.arange(64).view(4, 16) % 3 == 0).float()
    losses = []
    for _ in range(5):
        loss = functional.binary_cross_entropy_with_logits(tower(x), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    moved = [name for name, p in tower.named_parameters() if p.grad is not None]
    assert len(moved) > 0.8 * len(list(tower.parameters()))
    json.dumps(made.architecture)


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoder_of_each_family_reads_the_corpus_vocabulary(kind):
    table = {"kind": "hf_encoder", "config": encoder_config(kind), "max_length": 12}
    made = create_hasher({"text": table}, 16, ["a red dog", "a blue cat"] * 3, seeded())
    tower = made.hasher.eval().text_tower()
    h = made.hasher.hash_text(made.codec.encode(["a red dog", "a blue", ""]))
    assert h.shape == (3, 16)
    assert torch.isfinite(h).all()
    assert tower.vocabulary_size == made.codec.vocabulary_size


# --- loading from a folder -------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_backbone_is_loaded_from_a_folder_and_rebuilt_without_it(tmp_path, family):
    folder = tmp_path / f"tiny-{family}"
    saved = save_model(folder, {"model_type": family, **FAMILIES[family]})
    made = create_hasher(image_request(folder), 16, [], seeded())
    loaded = made.hasher.image_tower().backbone.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in saved.state_dict().items())
    table = made.architecture["image"]
    assert table["source"] == f"tiny-{family}"  # never the machine's path
    assert str(tmp_path) not in json.dumps(made.architecture)
    assert table["pretrained"] is True
    for file in folder.iterdir():
        file.unlink()
    again = restore_hasher(made.architecture, 16, save(to_arrays(made.hasher)), "w")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(again.hash_image(x), made.hasher.eval().hash_image(x))


def test_architecture_can_be_taken_without_the_weights(tmp_path):
    saved = save_model(tmp_path, {"model_type": "vit", **SMALL})
    made = create_hasher(image_request(tmp_path, pretrained=False), 16, [], seeded())
    key = "embeddings.cls_token"
    assert not torch.equal(made.hasher.image_tower().backbone.state_dict()[key], saved.state_dict()[key])
    assert made.architecture["image"]["pretrained"] is False


def test_vision_half_of_a_two_tower_model(tmp_path):
    text = {k: v for k, v in SMALL.items() if k not in ("image_size", "patch_size")}
    config = transformers.CLIPConfig(
        vision_config=SMALL, text_config={**text, "vocab_size": 7, "projection_dim": 8}, projection_dim=8
    )
    whole = transformers.CLIPModel(config)
    whole.save_pretrained(tmp_path)
    made = create_hasher(image_request(tmp_path), 16, [], seeded())
    assert made.architecture["image"]["config"]["model_type"] == "clip_vision_model"
    assert made.architecture["image"]["mean"] == list(CLIP[0])
    mine, theirs = made.hasher.image_tower().backbone.state_dict(), whole.vision_model.state_dict()
    name = "encoder.layers.0.mlp.fc1.weight"
    assert torch.equal(next(v for n, v in mine.items() if n.endswith(name)), theirs[name])


def test_classifier_checkpoint_gives_its_backbone(tmp_path):
    config = transformers.ResNetConfig(**FAMILIES["resnet"], num_labels=3)
    whole = transformers.ResNetForImageClassification(config)
    whole.save_pretrained(tmp_path)
    made = create_hasher(image_request(tmp_path), 16, [], seeded())
    mine, theirs = made.hasher.image_tower().backbone.state_dict(), whole.resnet.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_sentence_encoder_comes_with_its_own_tokenizer(tmp_path):
    saved = save_model(tmp_path, encoder_config("bert"))
    save_tokenizer(tmp_path)
    request = {"text": {"kind": "hf_encoder", "source": str(tmp_path), "max_length": 12}}
    made = create_hasher(request, 16, ["ignored"], seeded())
    assert made.codec.encode(["a red dog", "blue zebra"]).tolist() == [[2, 3, 4], [5, 1, 0]]
    table = made.hasher.text_tower().encoder.get_input_embeddings().weight
    assert torch.equal(table, saved.get_input_embeddings().weight)
    assert made.architecture["text"]["padding_id"] == 0


# --- channel statistics ----------------------------------------------------------------------------


def write_preprocessor(folder, **table):
    (folder / "preprocessor_config.json").write_text(json.dumps(table))


def test_statistics_of_the_folder_go_before_the_familys(tmp_path):
    assert statistics(str(tmp_path), "vit") == (list(SYMMETRIC[0]), list(SYMMETRIC[1]))
    assert statistics(str(tmp_path), "resnet") == (list(IMAGENET[0]), list(IMAGENET[1]))
    write_preprocessor(tmp_path, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    assert statistics(str(tmp_path), "vit") == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    write_preprocessor(tmp_path, do_normalize=False)
    assert statistics(str(tmp_path), "vit") == ([0.0] * 3, [1.0] * 3)


def test_statistics_reach_the_tower(tmp_path):
    save_model(tmp_path, {"model_type": "vit", **SMALL})
    write_preprocessor(tmp_path, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    tower = create_hasher(image_request(tmp_path), 16, [], seeded()).hasher.image_tower()
    assert np.allclose(tower.mean.flatten(), [0.1, 0.2, 0.3])
    assert np.allclose(tower.std.flatten(), [0.4, 0.5, 0.6])


# --- refusals --------------------------------------------------------------------------------------


def test_folder_that_is_no_model(tmp_path):
    with pytest.raises(RecipeError, match="no readable Hugging Face model"):
        create_hasher(image_request(tmp_path), 16, [], seeded())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RecipeError, match="no readable Hugging Face model"):
        create_hasher(image_request(tmp_path), 16, [], seeded())


@pytest.mark.parametrize("source", [None, "", 3])
def test_source_must_be_named(source):
    with pytest.raises(RecipeError, match="wanted a hub name or a folder"):
        create_hasher({"image": {"kind": "hf_backbone", "source": source}}, 16, [], seeded())


def test_missing_weights_are_not_made_up(tmp_path):
    save_model(tmp_path, {"model_type": "vit", **SMALL})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(RecipeError, match="lacks weights of this model"):
        create_hasher(image_request(tmp_path), 16, [], seeded())


def test_pickled_weights_are_not_opened(tmp_path):
    model = save_model(tmp_path, {"model_type": "vit", **SMALL})
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(RecipeError, match="cannot be loaded"):
        create_hasher(image_request(tmp_path), 16, [], seeded())


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    save_model(tmp_path, {"model_type": "vit", **SMALL})
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nEvil = object\n")
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    made = create_hasher(image_request(tmp_path), 16, [], seeded())
    assert "auto_map" not in made.architecture["image"]["config"]
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "unheard-of"}))
    with pytest.raises(RecipeError):
        create_hasher(image_request(tmp_path), 16, [], seeded())
    assert not marker.exists()


def test_configuration_is_stripped_of_what_would_fetch_or_run():
    config = {"model_type": "vit", "_attn_implementation": "somebody/kernel", "auto_map": {"x": "y"}}
    config |= {"vision_config": {"quantization_config": {}, "hidden_size": 3}}
    assert clean_config(config) == {"model_type": "vit", "vision_config": {"hidden_size": 3}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "timm_wrapper"}, "not supported"),
        ({"model_type": "upernet", "backbone": "somebody/model"}, "wrap another library's backbone"),
        ({"model_type": "vitdet", "use_timm_backbone": True}, "wrap another library's backbone"),
        ({}, "wanted a string, got None"),
        ({"model_type": "unheard-of"}, "refuses it"),
    ],
)
def test_configurations_that_are_refused(config, message):
    with pytest.raises(RecipeError, match=message):
        make_config(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "clip_text_model"}, "takes word embeddings"),
        ({"model_type": "t5"}, "takes word embeddings"),
        (encoder_config("bert", max_position_embeddings=10), "wanted at most 8"),
        ({"model_type": "vit", **SMALL}, "takes word embeddings"),
    ],
)
def test_encoders_that_cannot_be_entered_at_their_embeddings(config, message):
    with pytest.raises(RecipeError, match=message), torch.device("meta"):
        build_hasher({"text": {"kind": "hf_encoder", "config": config, "max_length": 12}}, 16)


def test_language_model_is_no_image_backbone():
    with pytest.raises(RecipeError, match="gives no features for images"):
        build_hasher({"image": {"kind": "hf_backbone", "config": encoder_config("bert")}}, 16)


def test_tokenizer_must_be_there_and_have_padding(tmp_path):
    save_model(tmp_path, encoder_config("bert", vocab_size=100))
    request = {"text": {"kind": "hf_encoder", "source": str(tmp_path), "max_length": 12}}
    bare = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(WORDS)))
    bare.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="no padding token"):
        create_hasher(request, 16, [], seeded())
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(RecipeError, match="no tokenizer that can be loaded"):
        create_hasher(request, 16, [], seeded())
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(RecipeError, match="tokenizer of about 100 entries, got 5"):
        create_hasher(request, 16, [], seeded())
