"""report.html: what a reader needs of report.json is on the page, as text, and nothing is loaded."""

from __future__ import annotations

import base64
import copy
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_made import changed, made_report, picture
from report_page import Page, svgs

from model.data.manifest import Manifest
from model.evaluation.assembly import Judged, assemble
from model.evaluation.evidence import ModelEvidence
from model.evaluation.gates import check
from model.evaluation.pictures import GREY, magnified
from model.evaluation.profiles import profile
from model.evaluation.report import render
from model.evaluation.stage import Setting

LOADS = {"src", "href", "srcset", "xlink:href", "action", "data", "poster", "formaction", "background"}


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return made_report()


@pytest.fixture(scope="module")
def page(report: dict[str, Any]) -> Page:
    return Page(render(report))


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    """One model, one task, two budgets: what most failure tests start from."""
    return made_report((("only/1", "none", 1.0),), tasks=("image-to-image",), epsilons=(8, 255))


def test_the_page_loads_nothing(page: Page, report: dict[str, Any]) -> None:
    for _, attributes in page.tags:
        for name in LOADS & set(attributes):
            assert attributes[name].startswith(("data:image/png;base64,", "#"))
        assert not [name for name in attributes if name.startswith("on")]
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form", "use", "foreignobject"}
    html = render(report)
    assert "url(" not in html
    assert "@import" not in html
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    wanted = {a["href"][1:] for tag, a in page.tags if tag == "a"}
    wanted |= {name for _, a in page.tags for name in a.get("aria-labelledby", "").split()}
    assert wanted <= set(identities)


def test_every_picture_has_a_text_and_every_header_a_scope(page: Page) -> None:
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")


def test_every_check_and_model_is_named(page: Page, report: dict[str, Any]) -> None:
    for verdict in report["checks"]:
        assert f"{verdict['name']}: {verdict['detail']}" in page.text
    for entry in report["models"]:
        assert f"Checks of {entry['label']}" in page.text
    for entry in report["left_out"]:
        assert f"{entry['what']} ({entry['model']}): {entry['why']}" in page.text
    assert "All 8 honesty checks hold" in page.text


def test_a_failed_check_is_the_first_thing_said(report: dict[str, Any]) -> None:
    broken = copy.deepcopy(report)
    broken["checks"][5] |= {"holds": False, "detail": "the worst case rose by 7.3 points"}
    text = Page(render(broken)).text
    assert "1 of 8 honesty checks do not hold" in text
    assert "honesty checks hold." not in text
    assert "monotone (fashion-saat/1): the worst case rose by 7.3 points" in text
    assert text.index("the worst case rose by 7.3 points") < text.index("Checks of")


def test_a_report_without_checks_does_not_praise_itself(small: dict[str, Any]) -> None:
    text = Page(render({**small, "checks": []})).text
    assert "No honesty check was run" in text
    assert "hold." not in text


def test_threat_data_and_command_are_printed(page: Page, report: dict[str, Any]) -> None:
    for sentence in (*report["threat"]["goals"], *report["threat"]["knowledge"], report["threat"]["metric"]):
        assert sentence in page.text
    for value in (report["data"]["fingerprint"], report["data"]["split_digest"], report["threat"]["command"]):
        assert value in page.text


def test_excluded_queries_are_counted_where_there_are_some(small: dict[str, Any]) -> None:
    assert "excludedno query: each has a relevant item" in Page(render(small)).text.replace(
        "excluded no", "excludedno"
    )
    data = {**small["data"], "excluded": {"m image-to-image/database": 3, "m text-to-text/database": 0}}
    text = Page(render({**small, "data": data})).text
    assert "m image-to-image/database 3" in text.replace("database3", "database 3")
    assert "text-to-text" not in text


def test_the_worst_case_table_holds_the_figures(page: Page, report: dict[str, Any]) -> None:
    rows = [[cell.strip() for cell in row] for row in page.tables[0]]
    strict = [row for row in rows if row[0] == "database"]
    main = [row for row in rows if row[0] == "train + database"]
    for lines, protocol in ((main, "train+database"), (strict, "database")):
        for line, model in zip(lines, report["models"], strict=True):
            cases = [
                case
                for case in report["worst_case"]
                if (case["model"], case["task"], case["protocol"])
                == (model["label"], "image-to-text", protocol)
            ]
            assert line[1] == f"{100 * cases[0]['clean_map']:.1f}"
            assert line[-2:] == [f"{100 * cases[0]['chance']:.1f}", "60"]
            for cell, case in zip(line[2:-2], cases, strict=True):
                wanted = f"{100 * case['map']:.1f}{100 * case['lo']:.1f}–{100 * case['hi']:.1f}"
                assert cell == wanted


def test_what_is_at_or_below_chance_is_marked(report: dict[str, Any]) -> None:
    html = render(report)
    for case in report["worst_case"]:
        shown = f'<span class="fallen">{100 * case["map"]:.1f}</span>'
        if case["map"] <= case["chance"]:
            assert shown in html
    strong = made_report((("strong/1", "none", 0.0),), tasks=("image-to-text",), epsilons=(8,))
    assert '<td class="figure"><span class="fallen"' not in render(strong)


def test_models_stand_side_by_side_for_every_attack(page: Page, report: dict[str, Any]) -> None:
    table = next(place for place, t in enumerate(page.tables) if t[0][0].strip() == "Attack")
    assert [cell.strip() for cell in page.tables[table][0]] == [
        "Attack",
        "fashion-none/1",
        "fashion-saat/1",
        "Queries",
    ]
    wanted = {}
    for row in report["rows"]:
        if row["attack"] == "square:own-code" and row["task"] == "image-to-text":
            wanted[row["model"], row["protocol"]] = f"{100 * row['map']:.1f}"
    line = page.row("square:own-code 1,000 queries", table)
    for cell, model in zip(line[1:3], ("fashion-none/1", "fashion-saat/1"), strict=True):
        assert cell == f"{wanted[model, 'train+database']} / {wanted[model, 'database']}"
    names = {row[0].split()[0] for row in page.tables[table]}
    attacks = {row["attack"] for row in report["rows"] if row["norm"] in ("linf", "l2")}
    assert attacks <= names


def test_differences_carry_their_sign_and_undecided_ones_are_grey() -> None:
    twins = made_report((("a/1", "none", 1.0), ("b/1", "none", 1.0)), tasks=("image-to-text",), epsilons=(8,))
    assert 'class="figure undecided">0.0<' in render(twins)
    apart = made_report((("a/1", "none", 1.0), ("b/1", "saat", 0.2)), tasks=("image-to-text",), epsilons=(8,))
    pair = next(pair for pair in apart["pairs"] if pair["protocol"] == "train+database")
    html = render(apart)
    assert f'<td class="figure">−{abs(100 * pair["difference"]):.1f}<' in html
    assert "undecided" not in html.split("</style>")[1]


def test_the_budget_plot_shows_the_worst_cases(report: dict[str, Any]) -> None:
    svg = svgs(render(report))[0]
    tag = "{http://www.w3.org/2000/svg}"
    ticks = {
        (text.get("class"), text.text): float(text.get("x" if text.get("class") == "tick" else "y"))
        for text in svg.iter(f"{tag}text")
        if text.get("class") in ("tick", "tick end")
    }
    zero, hundred = ticks["tick end", "0"], ticks["tick end", "100"]
    lines = list(svg.iter(f"{tag}polyline"))
    assert [line.find(f"{tag}title").text for line in lines] == ["fashion-none/1", "fashion-saat/1"]
    for line in lines:
        cases = {
            f"{round(255 * case['eps'])}": 100 * case["map"]
            for case in report["worst_case"]
            if case["model"] == line.find(f"{tag}title").text
            and (case["task"], case["protocol"]) == ("image-to-text", "train+database")
        }
        drawn = [tuple(map(float, pair.split(","))) for pair in line.get("points").split()][1:]
        assert len(drawn) == len(cases) == 7
        for (x, y), (label, value) in zip(drawn, cases.items(), strict=True):
            assert x == pytest.approx(ticks["tick", label], abs=0.02)
            assert 100 * (y + 5 - zero) / (hundred - zero) == pytest.approx(value, abs=0.1)


def test_rounded_budgets_keep_their_names(small: dict[str, Any]) -> None:
    rounded = copy.deepcopy(small)
    for entry in (*rounded["rows"], *rounded["worst_case"]):
        entry["eps"] = round(entry["eps"], 6)
    html = render(rounded)
    assert "8/255" in html
    labels = {text.text for text in svgs(html)[0].iter("{http://www.w3.org/2000/svg}text")}
    assert {"0", "8", "255"} <= labels


def test_the_loss_curve_is_that_of_the_best_restart(small: dict[str, Any]) -> None:
    figure = next(s for s in svgs(render(small)) if "objective against steps" in (s[0].text or ""))
    told = figure[1].text
    best = max(small["rows"][1]["curve"], key=lambda restart: restart[-1])
    assert f"only/1: {best[0]:.4g} at 0, {best[-1]:.4g} at 20." in told


# --- examples


def test_the_change_is_magnified_around_grey() -> None:
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    attacked = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    wanted = [
        min(255, max(0, GREY + 10 * (int(b) - int(a))))
        for a, b in zip(clean.ravel(), attacked.ravel(), strict=True)
    ]
    assert magnified(clean, attacked).ravel().tolist() == wanted
    assert (magnified(clean, clean) == GREY).all()


def test_pictures_on_the_page_are_those_of_the_report(page: Page, report: dict[str, Any]) -> None:
    shown = [a["src"] for tag, a in page.tags if tag == "img"]
    assert len(shown) == 3 * len(report["examples"])
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))) for uri in shown]
    clean, attacked = picture(0), changed(picture(0), 8)
    for got, wanted in zip(pixels[:3], (clean, attacked, magnified(clean, attacked)), strict=True):
        assert np.array_equal(got, wanted)


def test_hits_say_whether_they_are_relevant(page: Page) -> None:
    assert "✓ relevant a red dress number 0 (item-0, distance 0)" in page.text
    assert "✗ not relevant a red dress number 0 (item-0, distance 0)" in page.text
    assert "AP 81.0 → 7.0 per cent" in page.text


def test_exactly_the_changed_words_are_marked(page: Page) -> None:
    assert page.marked == ["dress", "shirt"] * 2
    assert "Before: “a red dress on a wooden floor”" in page.text


def test_an_image_only_model_has_a_page() -> None:
    report = made_report((("pics/1", "none", 1.0),), tasks=("image-to-image",), examples=1, texts=False)
    for entry in (*report["examples"][0]["before"], *report["examples"][0]["after"]):
        entry["text"] = ""
    text = Page(render(report)).text
    assert "image → image falls from" in text
    assert "image → text" not in text
    assert "Differences between models" not in text
    assert "✓ relevant item-0 (item-0, distance 0)" in text


def test_a_report_with_nothing_but_clean_figures_has_a_page() -> None:
    report = made_report((("m/1", "none", 1.0),), epsilons=(), examples=0, texts=False)
    report["rows"] = [row for row in report["rows"] if row["attack"] == "none"]
    page = Page(render(report))
    assert "nothing to plot" in page.text
    assert "Examples" not in page.text


def test_figures_that_do_not_exist_are_dashes(small: dict[str, Any]) -> None:
    empty = copy.deepcopy(small)
    for entry in (*empty["rows"], *empty["worst_case"]):
        entry |= {"map": None, "chance": None, "n": 0}
        entry |= {"lo": None, "hi": None} if "lo" in entry else {}
    assert "–" in Page(render(empty)).row("train + database", 0)[2]


def test_text_tasks_show_their_budgets_by_name(small: dict[str, Any]) -> None:
    spoken = copy.deepcopy(small)
    for entry in (*spoken["rows"], *spoken["worst_case"]):
        entry["task"] = "text-to-image"
        if entry["norm"] == "linf":
            entry |= {"norm": "words", "eps": 0.2} if entry["eps"] < 1 else {"norm": "text", "eps": 0.2}
    text = Page(render(spoken)).text
    assert "words replaced, 20 % of the words" in text
    assert "words or typing errors, within its limits" in text


def test_the_report_of_a_real_evaluation_has_a_page(healthy: ModelEvidence, small_manifest: Manifest) -> None:
    checks, _ = check(healthy, healthy, strict=False)
    setting = Setting(small_manifest, healthy.queries)
    judged = Judged(healthy, tuple(checks), ("more-steps: left out for the test",), healthy)
    report = assemble([judged], profile("quick", len(healthy.queries)), setting, "hashguard evaluate")
    html = render(report)
    page = Page(html)
    for verdict in checks:
        assert f"{verdict.name}: {verdict.detail}" in page.text
    for unit in healthy.attacked:
        assert unit.spec.name in page.text
    least = float(healthy.minima(healthy.find(norm="linf", eps=8 / 255), "image-to-text").mean())
    assert (
        f"image → text falls from {100 * healthy.mean_clean('image-to-text'):.1f} to {100 * least:.1f}"
        in page.text
    )
    assert "gate more-steps (undefended): left out for the test" in page.text
    assert page.marked
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 3 * 6
    assert len([svg for svg in svgs(html) if svg.get("class") == "plot"]) >= 5
