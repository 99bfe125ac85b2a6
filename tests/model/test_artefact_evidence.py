"""Recording an evaluation in an artefact: one step for readers, whatever dies, and the model stays itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from artefact_parts_made import TEXTS, make_parts, picture_bytes
from robustness_made import cases, robustness_table

from model import artefact_evidence as evidence_module
from model.artefact import (
    carry_robustness,
    full_card,
    open_artefact,
    read_card,
    record_robustness,
    save_artefact,
    verify,
)
from model.errors import ArtefactError
from model.inference import Encoder
from model.robustness import build_robustness

ROOT = Path(__file__).resolve().parents[2]
WEAK = ((2, 0.30), (8, 0.12))
STRONG = ((2, 0.68), (8, 0.60))
HUGE = {"sha256": "0" * 64, "bytes": 10**9}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return save_artefact(tmp_path_factory.mktemp("models"), "tiny", make_parts())


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "tiny" / "1")


def measured(folder, levels=WEAK, **changes):
    table = robustness_table(read_card(folder).digest, worst_case=cases(levels), **changes)
    return build_robustness(table, "made")


def consistent(folder):
    """Which of the recordings a reader finds (None for none); the card and the figures must be of one."""
    verify(folder)
    card = full_card(read_card(folder))
    assert card["known_to_break_at"] in card["readme"]
    if card["robustness"] is None:
        assert "Not evaluated" in card["readme"]
        return None
    assert json.loads(json.dumps(card["robustness"])) == card["robustness"]
    return card["robustness"]["worst_case"][0]["map"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- what recording does, and what it leaves alone -----------------------------------------------------


def test_figures_and_card_are_there_and_the_model_is_the_same(folder, trained):
    encoder, before = Encoder.load(folder), read_card(folder)
    queries = [encoder.decode(picture_bytes(seed)) for seed in range(4)]
    codes = encoder.encode_images(queries).tobytes() + encoder.encode_texts(TEXTS).tobytes()
    card = record_robustness(folder, measured(folder))
    assert names(folder) == sorted([*names(trained), "evidence.json", "robustness.json"])
    assert (folder / "manifest.json").read_bytes() == (trained / "manifest.json").read_bytes()
    assert card.digest == before.digest == verify(folder).digest
    again = Encoder.load(folder)
    assert (again.digest, again.preprocessing_digest) == (encoder.digest, encoder.preprocessing_digest)
    assert again.encode_images(queries).tobytes() + again.encode_texts(TEXTS).tobytes() == codes
    assert open_artefact(folder).robustness() == measured(folder)
    assert "| image-to-text | 8/255 per pixel |" in (folder / "README.md").read_text()
    assert consistent(folder) == 0.30


def test_a_second_recording_replaces_the_first(folder):
    for levels in (WEAK, STRONG, STRONG):
        record_robustness(folder, measured(folder, levels))
        assert consistent(folder) == levels[0][1]
    assert [name for name in names(folder) if name.startswith(".")] == []


def test_figures_of_another_model_are_not_recorded(folder, tmp_path):
    other = save_artefact(tmp_path / "others", "other", make_parts(seed=1))
    got, wanted = read_card(folder).digest, read_card(other).digest
    with pytest.raises(
        ArtefactError, match=f"wanted the evaluated model, digest {wanted}, got tiny/1 .*{got}"
    ):
        record_robustness(folder, measured(other))
    assert consistent(folder) is None
    assert not (folder / "evidence.json").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "calibration.json", "tokenizer.json", "manifest.json"])
def test_nothing_is_recorded_in_a_damaged_model(folder, name):
    figures = measured(folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-2])
    with pytest.raises(ArtefactError, match=name.replace(".", r"\.")):
        record_robustness(folder, figures)
    assert not (folder / "evidence.json").exists()


def test_a_damaged_record_is_healed_by_recording_again(folder):
    record_robustness(folder, measured(folder))
    (folder / "README.md").write_text("something else")
    with pytest.raises(ArtefactError, match=r"README\.md: wanted"):
        verify(folder)
    record_robustness(folder, measured(folder))
    assert consistent(folder) == 0.30


def test_a_copy_gets_the_record_unless_it_has_its_own(folder, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    assert carry_robustness(folder, copy) is False
    record_robustness(folder, measured(folder))
    assert carry_robustness(folder, copy) is True
    assert consistent(copy) == 0.30
    record_robustness(folder, measured(folder, STRONG))
    assert carry_robustness(folder, copy) is False
    assert consistent(copy) == 0.30
    other = save_artefact(tmp_path / "others", "other", make_parts(seed=1))
    with pytest.raises(ArtefactError, match="wanted the model"):
        carry_robustness(folder, other)
    assert consistent(other) is None


# --- damaged and forged records ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["README.md", "robustness.json", "evidence.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "link"])
def test_every_damaged_file_of_a_record_is_named(folder, name, damage):
    record_robustness(folder, measured(folder))
    data = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage == "cut":
        (folder / name).write_bytes(data[:-4])
    if damage == "link":
        (folder / name).symlink_to("nowhere")
    wanted = r"README\.md" if (name, damage) == ("evidence.json", "gone") else name.replace(".", r"\.")
    for read in (verify, open_artefact, lambda place: full_card(read_card(place))):
        with pytest.raises(ArtefactError, match=wanted):
            read(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "wanted format 1, got 2"),
        ({"model": "0" * 64}, "wanted what was recorded of the model"),
        ({"surprise": 1}, "unknown surprise"),
        ({"files": []}, "files: wanted an object, got list"),
        ({"files": {}}, r"files: missing README\.md, robustness\.json"),
        ({"files": {"../x": {}}}, r"files: unknown \.\./x"),
        ({"files": {"README.md": {}, "robustness.json": {}}}, "wanted sha256 and bytes"),
        (
            {"files": {"README.md": HUGE, "robustness.json": HUGE}},
            r"README\.md: wanted at most 8000000 bytes",
        ),
    ],
)
def test_forged_records_are_refused(folder, changes, message):
    record_robustness(folder, measured(folder))
    path = folder / "evidence.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ArtefactError, match=message):
        verify(folder)


@pytest.mark.parametrize("data", [b"", b"[]", b"{" + b" " * 20_000, b"\xff"])
def test_a_record_that_is_none_is_refused(folder, data):
    (folder / "evidence.json").write_bytes(data)
    with pytest.raises(ArtefactError, match=r"evidence\.json: wanted"):
        full_card(read_card(folder))


def test_forged_figures_are_refused_though_their_digest_fits(folder):
    card = read_card(folder)
    readme = (folder / "README.md").read_bytes()
    table = robustness_table(card.digest)
    table["worst_case"][0]["map"] = 7
    for data, message in (
        (json.dumps(table).encode(), r"worst_case\.0\.map: Input should be less than or equal to 1, got 7"),
        (json.dumps(robustness_table("0" * 64)).encode(), f"wanted figures of the model {card.digest}"),
        (b"[1]", r"robustness\.json: wanted a JSON object"),
    ):
        evidence_module.write_evidence(folder, card.digest, {"robustness.json": data, "README.md": readme})
        with pytest.raises(ArtefactError, match=message):
            verify(folder)


def test_a_stray_file_without_a_record_is_not_read(folder):
    (folder / "robustness.json").write_text("{}")
    assert consistent(folder) is None


def test_a_link_in_the_way_is_replaced_and_not_followed(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    for name in ("README.md", "robustness.json", "evidence.json", ".evidence-draft"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside)
    record_robustness(folder, measured(folder))
    assert outside.read_text() == "mine"
    assert consistent(folder) == 0.30


# --- deaths and crowds -----------------------------------------------------------------------------------


class Killed(BaseException):
    """The process dies here; nothing of ours runs after it."""


def dying(monkeypatch, moment):
    """Every step that changes the disk is counted, and the one number `moment` does not happen, or half."""
    steps = iter(range(10_000))

    def stepping(real, half=None):
        def step(*arguments, **options):
            if next(steps) == moment:
                if half:
                    half(*arguments)
                raise Killed
            return real(*arguments, **options)

        return step

    def half_written(path, data):
        path.write_bytes(data[: len(data) // 2])

    write = stepping(evidence_module.write_file, half_written)
    monkeypatch.setattr(evidence_module, "write_file", write)
    monkeypatch.setattr(evidence_module, "sync_folder", stepping(evidence_module.sync_folder))
    monkeypatch.setattr(Path, "replace", stepping(Path.replace))
    monkeypatch.setattr(Path, "unlink", stepping(Path.unlink))


@pytest.mark.parametrize("before", [None, WEAK])
def test_a_recording_that_dies_anywhere_leaves_the_old_or_the_new_one(trained, tmp_path, before):
    seen, moment = [], 0
    while True:
        folder = shutil.copytree(trained, tmp_path / str(moment))
        if before:
            record_robustness(folder, measured(folder, before))
        with pytest.MonkeyPatch.context() as monkeypatch:
            dying(monkeypatch, moment)
            try:
                record_robustness(folder, measured(folder, STRONG))
            except Killed:
                finished = False
            else:
                finished = True
        seen.append(consistent(folder))
        old = before[0][1] if before else None
        assert seen[-1] in (old, STRONG[0][1])
        if finished:
            break
        copied = shutil.copytree(folder, tmp_path / f"copy-{moment}")  # what is half done can be carried away
        assert consistent(copied) == seen[-1]
        for levels in (STRONG, WEAK):
            record_robustness(folder, measured(folder, levels))
            assert consistent(folder) == levels[0][1]
        assert not [name for name in names(folder) if name.startswith(".")]
        moment += 1
    assert moment > 12
    assert seen == sorted(
        seen, key=lambda value: value == STRONG[0][1]
    )  # old until one moment, new from then on


def test_a_death_while_another_death_is_being_mended(trained, tmp_path):
    """Die after the switch, before both files have their names; then at every step of the next recording."""
    first = shutil.copytree(trained, tmp_path / "first")
    with pytest.MonkeyPatch.context() as monkeypatch:
        dying(monkeypatch, 12)
        with pytest.raises(Killed):
            record_robustness(first, measured(first))
    assert consistent(first) == WEAK[0][1]
    assert [name for name in names(first) if name.startswith(".evidence-")]
    for levels in (WEAK, STRONG):
        for moment in range(14):
            folder = shutil.copytree(first, tmp_path / f"{levels[0][1]}-{moment}")
            with pytest.MonkeyPatch.context() as monkeypatch:
                dying(monkeypatch, moment)
                with pytest.raises(Killed):
                    record_robustness(folder, measured(folder, levels))
            assert consistent(folder) in (WEAK[0][1], levels[0][1])


def test_a_process_that_is_really_killed_leaves_a_readable_model(folder, tmp_path):
    for name, levels in (("weak", WEAK), ("strong", STRONG)):
        (tmp_path / f"{name}.json").write_text(json.dumps(measured(folder, levels).model_dump()))
    script = (
        "import sys, json, itertools, pathlib\n"
        "from model.artefact import record_robustness\n"
        "from model.robustness import build_robustness\n"
        "read = lambda name: build_robustness(json.loads(pathlib.Path(name).read_text()), name)\n"
        "figures = [read(name) for name in sys.argv[2:]]\n"
        "for one in itertools.cycle(figures):\n"
        "    record_robustness(pathlib.Path(sys.argv[1]), one)\n"
    )
    words = [sys.executable, "-c", script, folder, tmp_path / "weak.json", tmp_path / "strong.json"]
    for pause in (0.004, 0.031):
        (folder / "evidence.json").unlink(missing_ok=True)
        with subprocess.Popen(
            [str(word) for word in words], env={**os.environ, "PYTHONPATH": str(ROOT)}
        ) as child:
            deadline = time.monotonic() + 60
            while not (folder / "evidence.json").exists() and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(pause)
            child.send_signal(signal.SIGKILL)
        assert consistent(folder) in (WEAK[0][1], STRONG[0][1])
    record_robustness(folder, measured(folder))  # the dead one's lock died with it
    assert consistent(folder) == WEAK[0][1]


def test_two_recordings_at_once_and_readers_meanwhile(folder):
    record_robustness(folder, measured(folder))
    failures, done = [], threading.Event()
    figures = [measured(folder, levels) for levels in (WEAK, STRONG)]

    def writing(one):
        for _ in range(25):
            record_robustness(folder, one)

    def reading():
        while not done.is_set():
            try:
                assert consistent_now(folder) in (WEAK[0][1], STRONG[0][1])
            except BaseException as error:
                failures.append(error)
                return

    readers = [threading.Thread(target=reading) for _ in range(2)]
    writers = [threading.Thread(target=writing, args=(one,)) for one in figures]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert failures == []
    assert consistent(folder) in (WEAK[0][1], STRONG[0][1])
    assert not [name for name in names(folder) if name.startswith(".")]


def consistent_now(folder):
    """As `consistent`, in one read: between two reads somebody else may record."""
    artefact = open_artefact(folder)
    first = artefact.robustness().worst_case[0].map
    assert f"| {first:.3f} |" in artefact.files["README.md"].decode()
    return first


def test_a_record_that_changes_all_the_time_is_an_error_and_no_hang(folder, monkeypatch):
    turns = iter(range(10_000))

    def restless(folder):
        return json.dumps({"format": 1, "turn": next(turns)}).encode()

    monkeypatch.setattr(evidence_module, "_lock_file", restless)
    with pytest.raises(ArtefactError, match="wanted a file that stays for a moment"):
        full_card(read_card(folder))


def test_a_disk_that_is_full_is_an_error_and_the_old_record_stays(folder, monkeypatch):
    record_robustness(folder, measured(folder))

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evidence_module, "write_file", full)
    with pytest.raises(OSError, match="No space"):
        record_robustness(folder, measured(folder, STRONG))
    assert consistent(folder) == WEAK[0][1]
