"""Artefacts: written whole or not at all, verified file by file, refused with a reason when damaged."""

import hashlib
import json
import math
import os
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest
from artefact_parts_made import IMAGE, TEXT, make_parts
from hypothesis import given, settings
from hypothesis import strategies as st

from model import artefact as artefact_module
from model.artefact import (
    find_model,
    full_card,
    list_cards,
    list_models,
    open_artefact,
    read_card,
    save_artefact,
    scan_models,
    verify,
)
from model.artefact_checks import check_calibration, read_object
from model.artefact_readme import model_card_text
from model.errors import ArtefactError

FILES = {"manifest.json", "model.safetensors", "tokenizer.json", "calibration.json", "README.md"}


@pytest.fixture(scope="module")
def parts():
    return make_parts()


@pytest.fixture
def folder(tmp_path, parts):
    return save_artefact(tmp_path, "tiny", parts)


def edit(folder, **changes):
    """Change fields of the manifest as a forger or a careless editor would; ... drops one."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for name, value in changes.items():
        if value is ...:
            manifest.pop(name)
        else:
            manifest[name] = value
    path.write_text(json.dumps(manifest))


def replace_file(folder, name, data):
    """Put another file in, with a digest in the manifest that fits it."""
    (folder / name).write_bytes(data)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    edit(folder, files=files)


# --- writing ---------------------------------------------------------------------------------------


def test_what_is_written(folder, parts):
    assert {path.name for path in folder.iterdir()} == FILES
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert (manifest["name"], manifest["version"], manifest["bits"]) == ("tiny", "1", 16)
    assert manifest["preprocessing_digest"] == parts.preprocessing.digest()
    assert manifest["threat"] is None
    assert manifest["label_names"] == ["colour:blue", "colour:red"]
    assert set(manifest["files"]) == FILES - {"manifest.json"}
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    card = verify(folder)
    assert card.digest == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert card.modalities == {"image", "text"}
    assert card.bits == 16


def test_optional_files_are_there_when_given(tmp_path, parts):
    given = make_parts(score_tensors={"w": np.ones(3, np.float32)}, threat={"eps": 0.03})
    folder = save_artefact(tmp_path, "tiny", given)
    assert {path.name for path in folder.iterdir()} == FILES | {"score.safetensors"}
    assert "score.safetensors" not in open_artefact(folder).files
    assert "score.safetensors" in open_artefact(folder, score=True).files
    assert read_card(folder).manifest["threat"] == {"eps": 0.03}
    assert open_artefact(folder).robustness() is None


def test_codes_do_not_depend_on_the_scores_weights(tmp_path):
    folder = save_artefact(tmp_path, "tiny", make_parts(score_tensors={"w": np.ones(3, np.float32)}))
    (folder / "score.safetensors").write_bytes(b"damaged")
    assert open_artefact(folder).card.name == "tiny"
    with pytest.raises(ArtefactError, match=r"score\.safetensors"):
        verify(folder)


def test_another_account_may_read_it(folder):
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_versions_count_up_and_gaps_are_not_filled(tmp_path, parts):
    folders = [save_artefact(tmp_path, "tiny", parts) for _ in range(3)]
    assert [f.name for f in folders] == ["1", "2", "3"]
    (tmp_path / "tiny" / "10").mkdir()
    (tmp_path / "tiny" / "notes").mkdir()
    assert save_artefact(tmp_path, "tiny", parts).name == "11"
    assert len({read_card(f).digest for f in folders}) == 3


def test_writers_at_the_same_time_get_different_versions(tmp_path, parts):
    barrier, made = threading.Barrier(6), []

    def write():
        barrier.wait()
        made.append(save_artefact(tmp_path, "tiny", parts))

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(f.name) for f in made) == [1, 2, 3, 4, 5, 6]
    for folder in made:
        assert verify(folder).version == folder.name
    assert len(list_models(tmp_path)) == 6
    assert not list((tmp_path / "tiny").glob(".writing-*"))


def test_a_lost_race_is_run_again(tmp_path, parts, monkeypatch):
    save_artefact(tmp_path, "tiny", parts)
    monkeypatch.setattr(artefact_module, "_next_version", lambda home: 1)
    folder = save_artefact(tmp_path, "tiny", parts)
    assert folder.name == "2"
    assert verify(folder).manifest["version"] == "2"
    assert "version 2" in (folder / "README.md").read_text()


@pytest.mark.parametrize("at", ["model.safetensors", "README.md", "manifest.json"])
def test_writer_that_dies_leaves_nothing_visible(tmp_path, parts, monkeypatch, at):
    real = artefact_module.write_file

    def failing(path, data):
        if path.name == at:
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(artefact_module, "write_file", failing)
    with pytest.raises(OSError, match="No space"):
        save_artefact(tmp_path, "tiny", parts)
    assert scan_models(tmp_path) == ([], [])
    assert not any((tmp_path / "tiny").iterdir())


def test_rename_that_fails_for_another_reason_is_an_error(tmp_path, parts, monkeypatch):
    def refuse(self, target):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(type(tmp_path), "rename", refuse)
    with pytest.raises(OSError, match="Read-only"):
        save_artefact(tmp_path, "tiny", parts)


def test_folder_of_a_killed_writer_is_invisible(tmp_path, folder):
    killed = folder.parent / ".writing-abc"
    killed.mkdir()
    (killed / "manifest.json").write_text("{")
    (folder.parent / "draft").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "file").write_text("x")
    assert [card.folder for card in list_models(tmp_path)] == [folder]
    assert save_artefact(tmp_path, "tiny", make_parts()).name == "2"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../x", "/abs", ".hidden", "a b", "x" * 65, "a\n", "é"]
)
def test_bad_names_are_refused(tmp_path, parts, name):
    with pytest.raises(ArtefactError, match="name: wanted"):
        save_artefact(tmp_path, name, parts)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ({"image-to-text": [0.5] * 16}, "wanted 17 probabilities, got 16"),
        ({"image-to-text": [0.5] * 16 + [0.6]}, "never rise"),
        ({"image-to-text": [1.5] * 17}, "from 0 to 1"),
        ({"image-to-text": [math.nan] * 17}, "from 0 to 1"),
        ({"sound-to-text": [0.5] * 17}, "unknown sound-to-text"),
    ],
)
def test_bad_calibration_is_not_written(tmp_path, calibration, message):
    with pytest.raises(ArtefactError, match=message):
        save_artefact(tmp_path, "tiny", make_parts(calibration=calibration))
    assert list_models(tmp_path) == []


def test_parts_that_would_not_be_read_back_are_not_written(tmp_path):
    with pytest.raises(ArtefactError, match="label_names"):
        save_artefact(tmp_path, "tiny", make_parts(label_names=["a", 3]))
    with pytest.raises(ArtefactError, match="bits"):
        save_artefact(tmp_path, "tiny", make_parts(bits=16) and _with_bits(20))
    with pytest.raises(ValueError, match="JSON"):
        save_artefact(tmp_path, "tiny", make_parts(scores={"clean": math.inf}))
    assert scan_models(tmp_path) == ([], [])


def _with_bits(bits):
    return make_parts(bits=16, calibration={}).__class__(**{**vars(make_parts(calibration={})), "bits": bits})


# --- reading what was damaged or forged ------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FILES - {"manifest.json"}))
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "gone"])
def test_every_damaged_file_is_named(folder, name, damage):
    path = folder / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "cut":
        data.pop()
    else:
        data += b"x" * 1000
    path.write_bytes(data)
    if damage == "gone":
        path.unlink()
    with pytest.raises(ArtefactError, match=name.replace(".", r"\.")):
        verify(folder)
    with pytest.raises(ArtefactError, match="wanted"):
        open_artefact(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "wanted format 1, got 2"),
        ({"format": "1"}, "wanted format 1, got '1'"),
        ({"format": ...}, "wanted format 1, got None"),
        ({"bits": ...}, "missing bits"),
        ({"bits": 60}, "wanted a multiple of 8"),
        ({"bits": "64"}, "bits: wanted int, got str"),
        ({"bits": True}, "bits: wanted int, got bool"),
        ({"surprise": 1}, "unknown surprise"),
        ({"name": "../../etc"}, "name: wanted"),
        ({"name": 3}, "name: wanted str"),
        ({"version": "0"}, "version: wanted"),
        ({"version": "1/.."}, "version: wanted"),
        ({"seed": 1.5}, "seed: wanted int"),
        ({"architecture": {}}, "wanted image, text or both"),
        ({"architecture": {"sound": {}}}, "wanted image, text or both"),
        ({"architecture": []}, "architecture: wanted dict"),
        ({"label_names": [1]}, "wanted strings"),
        ({"preprocessing": "none"}, "wanted dict or NoneType, got str"),
        ({"files": {}}, "missing README.md, calibration.json, model.safetensors"),
        ({"files": []}, "files: wanted dict"),
    ],
)
def test_manifests_that_are_refused(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(ArtefactError, match=message):
        read_card(folder)


@pytest.mark.parametrize(
    "name",
    ["../../../etc/passwd", "/etc/passwd", "sub/model.safetensors", "manifest.json", "robustness.json", ""],
)
def test_manifest_cannot_name_other_files(folder, name):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit(folder, files={**files, name: {"sha256": "0" * 64, "bytes": 1}})
    with pytest.raises(ArtefactError, match="files: unknown"):
        open_artefact(folder)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("x", "wanted sha256 and bytes"),
        ({"sha256": "0" * 64}, "wanted sha256 and bytes"),
        ({"sha256": "0" * 63, "bytes": 1}, "sha256: wanted"),
        ({"sha256": 5, "bytes": 1}, "sha256: wanted"),
        ({"sha256": "0" * 64, "bytes": -1}, "wanted a whole number"),
        ({"sha256": "0" * 64, "bytes": 1.5}, "wanted a whole number"),
        ({"sha256": "0" * 64, "bytes": True}, "wanted a whole number"),
    ],
)
def test_bad_entries_of_the_list_of_files(folder, entry, message):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit(folder, files={**files, "README.md": entry})
    with pytest.raises(ArtefactError, match=message):
        read_card(folder)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"seed": NaN}',
        b'{"seed": Infinity}',
        b"9" * 9000,
    ],
)
def test_manifest_that_is_no_json_object(folder, data):
    (folder / "manifest.json").write_bytes(data)
    with pytest.raises(ArtefactError, match=r"manifest\.json: wanted"):
        read_card(folder)


def test_huge_manifest_is_not_read_whole(folder):
    with (folder / "manifest.json").open("wb") as file:
        file.truncate(50_000_000_000)  # sparse
    with pytest.raises(ArtefactError, match="wanted at most 8000000 bytes, got 8000001"):
        read_card(folder)


def test_huge_weights_are_read_no_further_than_the_manifest_says(folder):
    with (folder / "model.safetensors").open("ab") as file:
        file.truncate(50_000_000_000)
    with pytest.raises(ArtefactError, match=r"model\.safetensors"):
        open_artefact(folder)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors"])
def test_pipe_or_folder_in_place_of_a_file(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ArtefactError, match="wanted a regular file"):
        open_artefact(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(ArtefactError, match="wanted a"):
        open_artefact(folder)


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(ArtefactError, match="No such file"):
        read_card(tmp_path / "nowhere")


def test_preprocessing_must_fit_its_digest(folder):
    edit(folder, preprocessing_digest="0" * 64)
    with pytest.raises(ArtefactError, match="preprocessing_digest: wanted"):
        verify(folder)


@pytest.mark.parametrize("table", [{"size": 5}, {"size": 32, "crop": True}, {"version": 99}])
def test_bad_preprocessing_is_refused(folder, table):
    edit(folder, preprocessing=table)
    with pytest.raises(ArtefactError, match="preprocessing"):
        verify(folder)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"bits": 16}, "missing tasks"),
        ({"bits": 24, "tasks": {}}, "wanted 16 as in the manifest, got 24"),
        ({"bits": 16, "tasks": []}, "tasks: wanted an object, got list"),
        ({"bits": 16, "tasks": {"image-to-text": 3}}, "wanted 17 probabilities, got int"),
        ({"bits": 16, "tasks": {"image-to-text": [True] * 17}}, "from 0 to 1, got True"),
        ({"bits": 16, "tasks": {"image-to-text": ["1"] * 17}}, "from 0 to 1, got '1'"),
        ({"bits": 16, "tasks": {}, "more": 1}, "unknown more"),
    ],
)
def test_forged_calibration_is_refused(folder, table, message):
    replace_file(folder, "calibration.json", json.dumps(table).encode())
    with pytest.raises(ArtefactError, match=message):
        verify(folder)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=17, max_size=17))
def test_calibration_takes_every_curve_that_never_rises_and_no_other(values):
    falling = sorted(values, reverse=True)
    table = {"bits": 16, "tasks": {"text-to-text": falling}}
    assert check_calibration(table, 16, "c") == {"text-to-text": tuple(falling)}
    if values != falling:
        with pytest.raises(ArtefactError, match="never rise"):
            check_calibration({"bits": 16, "tasks": {"text-to-text": values}}, 16, "c")


@given(st.binary(max_size=50))
def test_any_bytes_are_an_object_or_an_artefact_error(data):
    try:
        found = json.loads(data.decode("utf-8"))
    except ValueError:
        found = None
    if isinstance(found, dict):  # by chance never with NaN in it: "{}" is about all that is drawn
        assert read_object(data, "x") == found
    else:
        with pytest.raises(ArtefactError, match="x: wanted"):
            read_object(data, "x")


# --- listing ---------------------------------------------------------------------------------------


def test_listing_goes_on_past_damaged_models(tmp_path, parts):
    for name in ("beta", "alpha", "alpha"):
        save_artefact(tmp_path, name, parts)
    (tmp_path / "alpha" / "1" / "manifest.json").write_text("{}")
    (tmp_path / "beta" / "7").mkdir()
    cards, errors = scan_models(tmp_path)
    assert [(card.name, card.version) for card in cards] == [("alpha", "2"), ("beta", "1")]
    assert len(errors) == 2
    assert [card["version"] for card in list_cards(tmp_path)] == ["2", "1"]


def test_model_in_another_ones_place_is_an_error(tmp_path, parts):
    folder = save_artefact(tmp_path, "tiny", parts)
    folder.rename(folder.parent / "9")
    cards, errors = scan_models(tmp_path)
    assert cards == []
    assert "wanted the model tiny/9, got tiny/1" in str(errors[0])


def test_no_folder_no_models(tmp_path):
    assert scan_models(tmp_path / "nowhere") == ([], [])


def test_finding_a_model(tmp_path, parts):
    for name in ("old", "new", "old"):
        folder = save_artefact(tmp_path, name, parts)
        edit(
            folder,
            created={"old1": "2026-01-01", "new1": "2026-03-01", "old2": "2026-02-01"}[name + folder.name],
        )
    assert find_model(tmp_path, "old/1").version == "1"
    assert find_model(tmp_path, "old").version == "2"
    assert find_model(tmp_path, "latest").name == "new"


@pytest.mark.parametrize("wanted", ["tiny/2", "other", "", "../tiny/1", "tiny/1/x"])
def test_model_that_is_not_there(tmp_path, folder, wanted):
    with pytest.raises(ArtefactError, match="there: tiny/1"):
        find_model(tmp_path, wanted)


def test_public_card_has_no_files_and_full_card_has_readme_and_robustness(folder):
    card = read_card(folder)
    public = card.public()
    assert "files" not in public
    assert public["digest"] == card.digest
    assert public["modalities"] == ["image", "text"]
    full = full_card(card)
    assert full["robustness"] is None
    assert full["known_to_break_at"].startswith("not evaluated")
    assert full["readme"].startswith("---")
    json.dumps(full)


def test_one_sided_models(tmp_path):
    image = save_artefact(tmp_path, "image", make_parts(text=None))
    text = save_artefact(tmp_path, "text", make_parts(image=None))
    assert read_card(image).modalities == {"image"}
    assert read_card(text).modalities == {"text"}
    assert open_artefact(text).preprocessing() is None
    assert not (image / "tokenizer.json").exists()
    assert verify(text).manifest["preprocessing"] is None


def test_importing_artefacts_loads_no_torch():
    script = "import sys, model.artefact, model.preprocessing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


# --- the model card --------------------------------------------------------------------------------


def test_model_card_is_a_table_even_with_odd_values():
    manifest = {
        "name": "m",
        "version": "1",
        "bits": 16,
        "architecture": {"image": {"kind": "hf_backbone", "source": "a|b"}},
        "training_data": {},
        "label_names": [],
        "defence": {"name": "none"},
        "seed": 0,
        "code_version": "1\n2",
        "created": "now",
        "scores": {},
    }
    text = model_card_text(manifest, None)
    assert "| image tower | hf_backbone (a\\|b) |" in text
    assert "| text tower | none |" in text
    assert "| code version | 1 2 |" in text
    assert text.count("**Known to break at:**") == 1


def test_fixtures_are_what_they_say():
    assert IMAGE["kind"] == "residual_cnn"
    assert TEXT["kind"] == "conv"
