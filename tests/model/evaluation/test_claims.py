"""Claim files and the README's table of them: what a claim keeps, and what the table says of it."""

import json

import pytest
from report_made import made_report

from bench.robustness import claim, claim_path, split
from bench.robustness_table import differences_table, robustness_table
from bench.tables import replaced


@pytest.fixture(scope="module")
def report():
    return made_report(examples=2)


def test_a_claim_keeps_every_figure_and_no_picture_or_text(report):
    kept = claim(report, "python -m bench.robustness")
    assert not {"examples", "text_examples"} & set(kept)
    assert kept["worst_case"] == report["worst_case"]
    assert [row["map"] for row in kept["rows"]] == [row["map"] for row in report["rows"]]
    assert any(row["curve"] for row in kept["rows"])
    assert not any(row["curve"] for row in kept["rows"] if row["protocol"] == "database")
    assert "png" not in json.dumps(kept)
    assert "red disc" not in json.dumps(kept)


def test_a_claim_is_about_one_code_length(report, tmp_path):
    assert claim_path(report, tmp_path).name == "fashion-32.json"
    assert claim_path(report, tmp_path, "seeds").name == "fashion-32-seeds.json"
    mixed = {**report, "models": [{"bits": 32}, {"bits": 64}]}
    with pytest.raises(ValueError, match="one code length"):
        claim_path(mixed, tmp_path)


def test_the_table_has_the_figures_of_the_claims(report, tmp_path):
    assert robustness_table(tmp_path) == ""
    (tmp_path / "fashion-32.json").write_text(json.dumps(claim(report, "x")))
    (tmp_path / "other.json").write_text(json.dumps({"rows": []}))  # a data file of another kind
    table = robustness_table(tmp_path)
    lines = [line for line in table.splitlines() if line.startswith("| fashion, 32")]
    assert len(lines) == len(report["models"])  # image queries only: no text attack in this claim
    cases = {
        round(case["eps"] * 255): case
        for case in report["worst_case"]
        if (case["model"], case["task"]) == ("fashion-none/1", "image-to-text")
        and case["protocol"] == "train+database"
    }
    cells = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert cells[1:4] == ["fashion-none/1", "none, 0", "image-to-text"]
    wanted = [f"{cases[level]['map']:.3f}" for level in (2, 4, 8, 16)]
    assert [cell.split(" ")[0] for cell in cells[5:9]] == wanted
    assert f"({cases[8]['lo']:.3f}-{cases[8]['hi']:.3f})" in cells[7]
    alone = [
        row["map"]
        for row in report["rows"]
        if row["model"] == "fashion-none/1"
        and (row["task"], row["protocol"]) == ("image-to-text", "train+database")
        and (row["attack"], round(row["eps"] * 255)) == ("apgd:mainstay", 8)
    ]
    assert cells[9] == f"{min(alone):.3f}"
    strict = next(
        case
        for case in report["worst_case"]
        if (case["model"], case["task"]) == ("fashion-none/1", "image-to-text")
        and (case["protocol"], round(case["eps"] * 255)) == ("database", 8)
    )
    assert cells[10] == f"{strict['clean_map']:.3f}, {strict['map']:.3f}"
    assert "typing errors" not in table


def test_texts_under_attack_have_a_table_with_shares_of_the_clean_map(report, tmp_path):
    base = {"model": "fashion-saat/1", "defence": "saat", "seed": 0, "bits": 32, "task": "text-to-image"}
    base |= {"protocol": "train+database", "clean_map": 0.8, "chance": 0.2, "n": 60}
    texts = [{**base, "norm": norm, "map": value} for norm, value in (("words", 0.6), ("text", 0.4))]
    changed = {**claim(report, "x"), "worst_case": [*report["worst_case"], *texts]}
    (tmp_path / "fashion-32.json").write_text(json.dumps(changed))
    (line,) = [line for line in robustness_table(tmp_path).splitlines() if "(0.75)" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:] == ["fashion-saat/1", "saat, 0", "0.800", "0.600 (0.75)", "-", "0.400 (0.50)", "60"]


def test_a_model_without_texts_is_shown_by_images_that_find_images(tmp_path):
    report = made_report((("images/1", "none", 0.5),), tasks=("image-to-image",))
    (tmp_path / "pictures-32.json").write_text(json.dumps(claim(report, "x")))
    (line,) = [line for line in robustness_table(tmp_path).splitlines() if "images/1" in line]
    assert "| image-to-image |" in line


def test_the_differences_are_those_of_the_claim(report, tmp_path):
    assert differences_table(tmp_path) == ""
    (tmp_path / "fashion-32-seeds.json").write_text(json.dumps(claim(report, "x")))
    lines = differences_table(tmp_path).splitlines()[2:]
    shown = [
        pair
        for pair in report["pairs"]
        if pair["protocol"] == "train+database" and round(pair["eps"] * 255) in (4, 8, 16)
    ]
    assert len(lines) == len(shown) > 0
    for line, pair in zip(lines, shown, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:3] == ["fashion-32-seeds", f"{pair['a']} - {pair['b']}", pair["task"]]
        assert float(cells[4]) == pytest.approx(pair["difference"], abs=5e-4)
        assert cells[3] == str(round(pair["eps"] * 255))


def test_only_what_stands_between_the_marks_is_written():
    text = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n"
    new = replaced(text, "x", "new")
    assert new == "a\n<!-- x:begin -->\nnew\n<!-- x:end -->\nb\n"
    assert replaced(new, "x", "new") == new
    with pytest.raises(ValueError, match="wanted the marks"):
        replaced("nothing here", "x", "new")


def test_lists_of_folders_are_split_at_commas():
    assert split("a/1, b/2 ,") == ["a/1", "b/2"]
    assert split("") == []
