"""The ablation: every part is there to be removed and is removed once; differences have their sign."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import ablation
from bench.ablation import MAIN, PARTS, WHOLE, chosen, model_name, rows
from bench.ablation_table import ablation_table
from model.defences.registry import read_defence
from model.training.config import load_recipe, to_table

CASES = [(defence, part) for defence, parts in PARTS.items() for part in parts]


@pytest.mark.parametrize(("defence", "part"), CASES)
def test_every_part_is_in_the_shipped_recipe_and_can_be_removed(defence, part):
    changes = PARTS[defence][part]
    whole, without = load_recipe(defence), load_recipe(defence, changes)
    for change in changes:
        *path, key = change.partition("=")[0].split(".")
        table = to_table(whole)
        for step in path:
            table = table[step]
        assert table[key] > 0, f"{change}: has no weight in the recipe, so there is nothing to remove"
    assert to_table(whole) != to_table(without)
    read_defence(defence, without.defence)


@pytest.mark.parametrize("defence", sorted(PARTS))
def test_every_weight_of_the_defence_is_removed_by_itself_once(defence):
    table = load_recipe(defence).defence
    numbers = {key for key, value in table.items() if isinstance(value, float) and value > 0}
    alone = [changes[0] for changes in PARTS[defence].values() if len(changes) == 1]
    removed = {change.removeprefix("defence.").partition("=")[0] for change in alone}
    scale = {"reach", "share", "alignment_floor"}  # how much is generated and how far; not a part
    assert numbers - scale <= removed
    assert len(set(alone)) == len(alone)


def case(model, value, task="image-to-text", eps=8 / 255):
    found = {"model": model, "protocol": MAIN, "task": task, "norm": "linf", "eps": eps}
    return {**found, "map": value, "lo": value - 0.1, "hi": value + 0.1, "clean_map": 0.7}


@pytest.mark.parametrize(("a", "b", "sign"), [("x/1", "w/1", 1), ("w/1", "x/1", -1)])
def test_differences_are_variant_less_whole(a, b, sign):
    pair = {"a": a, "b": b, "task": "image-to-text", "protocol": MAIN, "norm": "linf", "eps": 8 / 255}
    report = {
        "worst_case": [
            case("w/1", 0.5),
            case("x/1", 0.4),
            {**case("x/1", 0.1), "protocol": "database"},
            case("x/1", 0.2, task="text-to-text"),
        ],
        "pairs": [{**pair, "difference": sign * -0.1, "lo": sign * -0.15, "hi": sign * -0.05}],
        "checks": [
            {"model": "x/1", "name": "bounded", "holds": False},
            {"model": "x/1", "name": "repeatable", "holds": True},
        ],
    }
    whole, variant = rows(report, {WHOLE: "w/1", "x": "x/1"}, {"x": ("defence.x=0.0",)})
    assert whole["worst"][0]["difference"] is None
    (worst,) = variant["worst"]
    assert worst["difference"] == {"map": -0.1, "lo": -0.15, "hi": -0.05}
    assert (variant["clean"], variant["failed"]) == ({"image-to-text": 0.7}, ["bounded"])
    assert variant["changes"] == ["defence.x=0.0"]


def test_parts_are_chosen_by_name():
    parts = PARTS["saat"]
    assert chosen(parts, "") == parts
    assert list(chosen(parts, "text_edits, mainstay term")) == ["text_edits", "mainstay term"]
    with pytest.raises(SystemExit, match="got fancy"):
        chosen(parts, "fancy")


def test_names_of_variants_are_model_names():
    assert model_name("(a) dual-branch encoder", 1) == "01-a--dual-branch-encoder"
    assert model_name("(b) from_attacked", 12) == "12-b--from-attacked"


def test_the_table_puts_what_earns_most_first(tmp_path):
    def row(variant, gap):
        worst = {"task": "image-to-text", "norm": "linf", "eps": 8 / 255, "map": 0.5, "lo": 0.4, "hi": 0.6}
        difference = None if gap is None else {"map": gap, "lo": gap - 0.01, "hi": gap + 0.01}
        clean = {"image-to-text": 0.7 + (gap or 0)}
        return {"variant": variant, "clean": clean, "worst": [{**worst, "difference": difference}]}

    document = {"name": "ablation-x", "epochs": 8, "seed": 0, "bits": 64, "queries": 9, "attacks": "a"}
    document["set"] = ["architecture.image.size=48"]
    document["rows"] = [row(WHOLE, None), row("idle", 0.001), row("strong", -0.05)]
    assert ablation_table(tmp_path) == ""
    (tmp_path / "ablation-x.json").write_text(json.dumps(document))
    lines = ablation_table(tmp_path).splitlines()
    assert "8 epochs, seed 0, 64 bits, architecture.image.size=48; 9 queries, a." in lines[0]
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| (nothing: whole)", "| strong", "| idle"]
    assert "0.650, -5.0 | 0.500, -5.0 (-6.0 to -4.0) | - | - | - |" in lines[5]


@pytest.mark.parametrize("part", ["(a) contrast", "text_edits"])
def test_a_variant_is_trained_with_the_settings_of_all_and_its_own(part, tmp_path, monkeypatch):
    commands = []

    def run(command, **_):
        commands.append(command)
        (Path(command[command.index("--out") + 1]) / "m" / "1").mkdir(parents=True)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    given = ["--data", "d", "--set", "architecture.image.size=48", "--wordnet", "w", "--work", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["ablation", *given])
    changes = PARTS["drfgd"][part]
    arguments = ablation.read_arguments()
    arguments.work.mkdir()
    for _ in range(2):  # a finished one is not trained again
        folder = ablation.train(arguments, "m", changes)
    (command,) = commands
    assert folder.is_relative_to(tmp_path)
    settings = [command[place + 1] for place, word in enumerate(command) if word == "--set"]
    assert settings == ["architecture.image.size=48", *changes]
    assert ("--wordnet" in command) == (part != "text_edits")  # without edits a WordNet has no use


def test_trainings_of_other_settings_are_kept_apart(monkeypatch):
    def work(*given):
        monkeypatch.setattr(sys, "argv", ["ablation", "--data", "d", *given])
        return ablation.read_arguments().work

    changed = (
        ("--epochs", "9"),
        ("--set", "loss.inter=1.0"),
        ("--recipe", "drfgd_paper"),
        ("--seed", "1"),
        ("--wordnet", "w"),
    )
    places = [work(), *(work(*change) for change in changed)]
    assert len(set(places)) == len(places)
    assert work("--queries", "9", "--jobs", "1") == places[0]
