"""`hashguard attack` on a real artefact: the files it writes attack whoever is sent them."""

import json

import numpy as np
import pytest
import torch
import typer
from small_wordnet import write_wordnet
from tiny_hashers import BITS, LABELS, SIDE, draw_world
from typer.testing import CliRunner

from model.artefact import save_artefact
from model.artefact_parts import ArtefactParts
from model.attacks.commands import attack
from model.attacks.rounding import to_png
from model.attacks.subjects import knowledge_of, load_subject, with_both
from model.attacks.text_limits import changed_words
from model.data.manifest import read_manifest
from model.errors import DataError, MissingTower
from model.hashers.weights import to_arrays
from model.inference import Encoder
from model.preprocessing import Preprocessing

app = typer.Typer()
app.command()(attack)


def save(trained, folder, **changes):
    parts = {
        "architecture": trained.architecture,
        "bits": BITS,
        "tensors": to_arrays(trained.hasher),
        "preprocessing": Preprocessing(size=SIDE),
        "tokenizer": trained.codec.to_json(),
        "label_names": list(LABELS),
        "training_data": {"fingerprint": "f" * 64},
        "defence": {"name": "none"},
        "seed": 1,
        "code_version": "0",
    }
    return save_artefact(folder, "tiny", ArtefactParts(**parts | changes))


def write_world(folder, splits):
    (folder / "images").mkdir(parents=True)
    with (folder / "pairs.jsonl").open("w") as lines:
        for split, count, seed in splits:
            world = draw_world(count, seed)
            for row in range(count):
                name = f"{split}-{row}"
                (folder / "images" / f"{name}.png").write_bytes(to_png(world.images[row]))
                line = {
                    "id": name,
                    "image": f"images/{name}.png",
                    "texts": [world.texts[row]],
                    "split": split,
                }
                line["labels"] = [LABELS[int(world.labels[row].argmax())]]
                lines.write(json.dumps(line) + "\n")
        lines.write(
            json.dumps({"id": "lonely", "texts": ["a cat"], "labels": ["cat"], "split": "query"}) + "\n"
        )
    return folder


@pytest.fixture(scope="module")
def model(undefended, tmp_path_factory):
    return save(undefended, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    splits = [("train", 60, 21), ("database", 30, 22), ("query", 12, 23)]
    return write_world(tmp_path_factory.mktemp("data") / "set", splits)


@pytest.fixture
def run(model, data, tmp_path):
    def call(*options, out="out", code=0):
        arguments = ["--model", str(model), "--data", str(data), "--out", str(tmp_path / out)]
        result = CliRunner().invoke(app, [*arguments, "--device", "cpu", *options])
        assert result.exit_code == code, result.output
        return tmp_path / out, result

    return call


def bits(codes):
    return ["".join("1" if bit else "0" for bit in code) for code in codes]


@pytest.mark.parametrize("name", ["mainstay", "pgd:own-code", "apgd:targeted-mainstay", "square:cross-modal"])
def test_the_files_do_to_the_encoder_what_the_report_says(run, model, data, name):
    out, _ = run("--attack", name, "--eps", "16/255", "--steps", "5", "--queries", "40")
    report = json.loads((out / "attack.json").read_text())
    assert report["attack"] == (name if ":" in name else f"apgd:{name}")
    assert report["budget"]["exact"]
    assert report["budget"]["linf"] <= 16 / 255 + 1e-6
    assert len(report["items"]) == 12
    encoder = Encoder.load(model, "cpu")
    sent, clean = read_manifest(out), read_manifest(data)
    assert report["model"]["digest"] == encoder.digest
    before = {r.id: r for r in clean.records}
    pixels, codes = {}, {}
    for when, records in (("after", sent.records), ("before", [before[r.id] for r in sent.records])):
        pixels[when] = [encoder.decode(r.image.read_bytes()) for r in records]
        codes[when] = bits(encoder.encode_images(pixels[when]))
    gap = np.abs(np.stack(pixels["after"]).astype(int) - np.stack(pixels["before"]).astype(int))
    assert 0 < gap.max() <= 16
    for row, item in enumerate(report["items"]):
        assert item["code_after"] == codes["after"][row]
        assert item["code_before"] == codes["before"][row]
    assert report["mean_flipped"] > 0.2
    assert [r.texts for r in sent.records] == [before[r.id].texts for r in sent.records]


def test_the_same_seed_writes_the_same_files(run):
    for out, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        folder, _ = run("--seed", seed, "--steps", "2", "--limit", "3", "--attack", "pgd:own-code", out=out)
    names = sorted(p.name for p in (folder / "images").iterdir())
    read = [[(folder.parent / out / "images" / n).read_bytes() for n in names] for out in "abc"]
    assert len(names) == 3
    assert read[0] == read[1] != read[2]


def test_l2_and_decision_only(run):
    out, result = run(
        "--attack", "ranks:mainstay", "--norm", "l2", "--eps", "1.5", "--queries", "20", "--json"
    )
    printed = json.loads(result.stdout)
    assert printed["threat"]["norm"] == "l2"
    assert printed["budget"]["l2"] <= 1.5 + 1e-6
    assert printed["folder"] == str(out)
    assert "items" not in printed
    assert printed["effort"]["queries"] == 20


@pytest.mark.parametrize("name", ["words:mainstay", "typos:own-code"])
def test_texts_change_within_their_limits(run, data, name):
    out, result = run("--attack", name)
    report = json.loads((out / "attack.json").read_text())
    assert any(item["before"] != item["after"] for item in report["items"])
    for item in report["items"]:
        assert len(changed_words(item["before"], item["after"])) == item["words_changed"] <= 2
    assert ("stay untouched" in result.stdout) == (name == "words:mainstay")
    texts = {r.id: r.texts for r in read_manifest(out).records}
    assert texts == {item["id"]: (item["after"],) for item in report["items"]}


def test_wordnet_comes_as_a_folder(run, tmp_path):
    folder = write_wordnet(tmp_path / "wordnet")
    out, result = run("--attack", "words:mainstay", "--wordnet", str(folder))
    assert "synonyms only" in result.stdout
    assert "synonyms only" in json.loads((out / "attack.json").read_text())["notes"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--attack", "nothing"), "unknown objective"),
        (("--attack", "nothing:mainstay"), "unknown attack method"),
        (("--eps", "eight"), "eps"),
        (("--attack", "words:mainstay", "--wordnet", "missing"), "WordNet"),
        (("--attack", "nes:mainstay", "--queries", "3"), "queries"),
        (("--device", "tpu"), "device"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_leaves_nothing(run, options, message, tmp_path):
    out, result = run(*options, code=1)
    assert message in result.stderr
    assert not out.exists()


def test_a_folder_that_holds_files_is_left_alone(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    _, result = run("--limit", "1", "--steps", "1", code=1)
    assert "nothing was written" in result.stderr
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_items_without_what_the_model_reads_are_left_out(model, data):
    subject = load_subject(model, "cpu")
    queries = read_manifest(data).of_split("query")
    assert {r.id for r in queries} - {r.id for r in with_both(queries, subject)} == {"lonely"}


def test_knowledge_is_both_sides_of_the_train_split_by_this_model(model, data, undefended):
    subject, manifest = load_subject(model, "cpu"), read_manifest(data)
    queries = with_both(manifest.of_split("query"), subject)
    known = knowledge_of(subject, manifest, queries, "image", seed=0)
    world = draw_world(60, 21)
    assert torch.equal(known.codes, torch.cat([undefended.codes(world), undefended.text_codes(world)]))
    assert torch.equal(known.clean, undefended.codes(draw_world(12, 23)))
    assert known.paired is not None
    assert torch.equal(known.paired, undefended.text_codes(draw_world(12, 23)))
    flipped = knowledge_of(subject, manifest, queries, "text", seed=0)
    assert torch.equal(flipped.clean, known.paired)


def test_a_model_of_images_only(undefended, data, tmp_path):
    alone = {"image": undefended.architecture["image"]}
    weights = {n: t for n, t in to_arrays(undefended.hasher).items() if n.startswith("image.")}
    folder = save(undefended, tmp_path / "models", architecture=alone, tensors=weights, tokenizer=None)
    subject, manifest = load_subject(folder, "cpu"), read_manifest(data)
    queries = with_both(manifest.of_split("query"), subject)
    known = knowledge_of(subject, manifest, queries, "image", seed=0)
    assert known.paired is None
    assert len(known.codes) == 60
    with pytest.raises(MissingTower, match="reads no texts"):
        subject.text_codec()


def test_a_model_of_texts_only(undefended, data, tmp_path):
    alone = {"text": undefended.architecture["text"]}
    weights = {n: t for n, t in to_arrays(undefended.hasher).items() if n.startswith("text.")}
    folder = save(undefended, tmp_path / "models", architecture=alone, tensors=weights, preprocessing=None)
    subject, manifest = load_subject(folder, "cpu"), read_manifest(data)
    with pytest.raises(MissingTower, match="reads no images"):
        subject.images(manifest.records)
    queries = with_both(manifest.of_split("query"), subject)
    assert knowledge_of(subject, manifest, queries, "text", seed=0).clean.shape == (13, BITS)


def test_images_that_are_none_are_named(model, data, tmp_path):
    subject, manifest = load_subject(model, "cpu"), read_manifest(data)
    lonely = next(r for r in manifest.records if r.id == "lonely")
    with pytest.raises(DataError, match="item lonely has no image"):
        subject.images([lonely])
    folder = write_world(tmp_path / "broken", [("query", 1, 1)])
    (folder / "images" / "query-0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="item query-0: "):
        subject.images(read_manifest(folder).records[:1])
    assert subject.images([]).shape == (0, 3, SIDE, SIDE)


def test_nobody_to_aim_by_is_refused(model, data, tmp_path):
    subject = load_subject(model, "cpu")
    manifest = read_manifest(write_world(tmp_path / "small", [("query", 2, 1)]))
    with pytest.raises(DataError, match="got 2 and 0"):
        knowledge_of(subject, manifest, manifest.records[:2], "image", seed=0)
