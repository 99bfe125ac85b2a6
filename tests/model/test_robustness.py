"""robustness.json read as a stranger's file, and the rule by which a model is known to break."""

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robustness_made import LEVELS, PROTOCOLS, attack, case, cases, robustness_table

from model import robustness as module
from model.artefact_readme import known_to_break_at, model_card_text
from model.errors import ArtefactError
from model.evaluation.scoring import MAIN_PROTOCOL
from model.evaluation.scoring import PROTOCOLS as SCORED
from model.robustness import breaking_point, build_robustness, read_robustness, robustness_bytes

DIGEST = "ab" * 32
MANIFEST = {
    "name": "tiny",
    "version": "1",
    "bits": 16,
    "architecture": {"image": {"kind": "residual_cnn"}, "text": {"kind": "conv"}},
    "training_data": {},
    "label_names": [],
    "defence": {"name": "drfgd"},
    "seed": 0,
    "code_version": "0.1.0",
    "created": "now",
    "scores": {},
}


def built(**changes):
    return build_robustness(robustness_table(**changes), "r")


def broken_at(*levels, side="image", **changes):
    """The line for a model with these (level of 255, worst case) under the main protocol."""
    rows = [case(f"{side}-to-{side}", PROTOCOLS[0], "linf", n / 255, value) for n, value in levels]
    clean = {"task": f"{side}-to-{side}", "protocol": PROTOCOLS[0]}
    first = robustness_table()["clean"][0]
    found = built(worst_case=rows, clean=[{**first, **clean}], **changes)
    return known_to_break_at({**MANIFEST, "architecture": {side: {}}}, found)


def put(table, path, value):
    """Set `table[a][b]...`, path as "a.b.0"; ... removes."""
    *steps, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for step in steps:
        table = table[step]
    if value is ...:
        del table[last]
    else:
        table[last] = value


# --- reading -----------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_equal():
    found = built()
    data = robustness_bytes(found)
    assert read_robustness(data, DIGEST, "r") == found
    assert json.loads(data) == robustness_table()


def test_protocols_are_those_of_the_scores():
    assert tuple(SCORED) == module.PROTOCOLS
    assert module.PROTOCOLS[0] == MAIN_PROTOCOL


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", 2, "format: Input should be less than or equal to 1, got 2"),
        ("format", True, "format"),
        ("surprise", 1, "surprise: Extra inputs are not permitted"),
        ("threat", ..., "threat: Field required"),
        ("threat", [], "threat: Input should be a valid dictionary"),
        ("threat.goals", "all", "threat.goals: Input should be a valid list"),
        ("threat.goals", ["x"] * 51, "threat.goals: List should have at most 50 items"),
        ("threat.metric", "x" * 8001, "threat.metric: String should have at most 8000"),
        ("model.digest", "AB" * 32, "model.digest: String should match"),
        ("model.digest", "ab" * 32 + "\n", "model.digest: String should match"),
        ("data.name", "", "data.name: String should have at least 1"),
        ("data.name", "two\nlines", "data.name: wanted printable characters"),
        ("data.name", "\x1b[31mred", "data.name: wanted printable characters"),
        ("data.name", "\ud800", "data.name"),
        ("data.counts", {"train": -1}, "data.counts.train: Input should be greater than or equal to 0"),
        ("data.queries", 0, "data.queries: Input should be greater than or equal to 1"),
        ("data.queries", 1.5, "data.queries: Input should be a valid integer"),
        ("data.queries", True, "data.queries: Input should be a valid integer, got True"),
        ("data.queries", 10**12, "data.queries: Input should be less than or equal to"),
        ("seed", "0", "seed: Input should be a valid integer"),
        ("attacks", [attack("x")] * 1001, "attacks: List should have at most 1000"),
        ("attacks.0.side", "sound", "attacks.0.side: Input should be 'image' or 'text'"),
        ("attacks.0.eps", -1, "attacks.0.eps: Input should be greater than or equal to 0"),
        ("clean", [], "clean: List should have at least 1"),
        ("clean.0.map", math.nan, "clean.0.map: Input should be"),
        ("clean.0.map", 1e400, "clean.0.map: Input should be"),
        ("clean.0.map", 1.01, "clean.0.map: Input should be less than or equal to 1, got 1.01"),
        ("clean.0.map", "0.7", "clean.0.map: Input should be a valid number, got '0.7'"),
        ("clean.0.map", None, "clean.0.map: Input should be a valid number, got None"),
        ("clean.0.task", "sound-to-text", "clean.0.task: Input should be"),
        ("clean.0.lo", 0.71, r"clean.0: wanted lo <= map <= hi, got 0.71, 0.7, 0.72"),
        ("clean.0.hi", 0.69, "clean.0: wanted lo <= map <= hi"),
        ("clean.1.protocol", "train+database", "clean: wanted every task, protocol and budget once"),
        ("worst_case", [], "worst_case: List should have at least 1"),
        ("worst_case", cases() * 80, "worst_case: List should have at most 1000"),
        ("worst_case", cases()[:1] * 2, "worst_case: wanted every task, protocol and budget once"),
        (
            "worst_case.0.clean_map",
            0.5,
            "worst_case.0: wanted a worst case of at most clean_map 0.5, got 0.61",
        ),
        ("worst_case.0.eps", 8, "worst_case.0: wanted eps in \\(0, 1\\] pixels for linf, got 8"),
        ("worst_case.0.eps", 0, "worst_case.0.eps: Input should be greater than 0"),
        ("worst_case.0.norm", "l7", "worst_case.0.norm: Input should be"),
        ("worst_case.0.attacks", [], "worst_case.0.attacks: List should have at least 1"),
        ("worst_case.0.n", 0, "worst_case.0.n: Input should be greater than or equal to 1"),
        ("worst_case.0.task", "image-to-image", "clean: wanted a figure for .'image-to-image', 'train"),
        ("gates.judged", 3, "gates: wanted 3 different gates that hold, got 2"),
        ("gates.held", ["one", "one"], "gates: wanted 2 different gates that hold, got 2"),
        ("gates.held", [], "gates.held: List should have at least 1"),
        ("gates.failed", ["transfer"], "gates.failed: Extra inputs are not permitted"),
        ("versions", {"torch": 2}, "versions.torch: Input should be a valid string"),
    ],
)
def test_hostile_content_is_refused_by_the_name_of_the_field(path, value, message):
    table = robustness_table()
    put(table, path, value)
    with pytest.raises(ArtefactError, match=f"^r: {message}"):
        build_robustness(table, "r")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "wanted JSON"),
        (b"[1]", "wanted a JSON object, got list"),
        (b'{"format": NaN}', "NaN is no JSON"),
        (b'{"format": -Infinity}', "-Infinity is no JSON"),
        (b"[" * 100_000, "wanted JSON"),
        (b"\xff", "wanted JSON"),
        (b"{" + b" " * 1_000_000, "wanted at most 1000000 bytes, got 1000001"),
    ],
)
def test_bytes_that_are_no_figures_are_refused(data, message):
    with pytest.raises(ArtefactError, match=message):
        read_robustness(data, DIGEST, "r")


def test_figures_of_another_model_are_refused():
    data = robustness_bytes(built())
    with pytest.raises(ArtefactError, match=f"wanted figures of the model {'0' * 64}, got of {DIGEST}"):
        read_robustness(data, "0" * 64, "r")


def test_figures_too_large_to_be_read_back_are_not_written():
    many = [attack("x" * 300, n=n) for n in range(1000)]
    held = {"judged": 500, "held": [f"{n:0300}" for n in range(500)], "not_judged": []}
    left = [{"name": "y", "why": "z" * 4000}] * 150
    with pytest.raises(ArtefactError, match="wanted at most 1000000 bytes, got"):
        robustness_bytes(built(attacks=many, gates=held, not_run=left))


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
    st.sampled_from(sorted(robustness_table())),
)
def test_no_value_does_more_than_be_refused(value, field):
    """Whatever stands in a field, reading ends with figures or with an ArtefactError that names the field."""
    try:
        found = built(**{field: value})
    except ArtefactError as error:
        assert field in str(error)  # noqa: PT017 - one of the two allowed ends
    else:
        json.dumps(found.model_dump(), allow_nan=False)


def test_reading_figures_loads_no_torch():
    script = "import sys, model.robustness, model.evaluation.recording; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


# --- where it breaks ---------------------------------------------------------------------------------


def test_the_smallest_evaluated_budget_that_halves_the_map():
    line = known_to_break_at(MANIFEST, built())
    assert line == (
        "pictures: 8/255 per pixel (image-to-text mAP 0.700 clean, 0.330 attacked, chance 0.150; not at "
        "4/255 per pixel, nothing between was tried); texts: not at the only evaluated budget, 20 % of the "
        "words replaced or mistyped (text-to-image mAP 0.700 clean, 0.400 attacked, chance 0.150), more was "
        "not tried. Defence drfgd."
    )


def test_the_order_of_the_rows_does_not_matter():
    assert known_to_break_at(MANIFEST, built(worst_case=cases()[::-1])) == known_to_break_at(
        MANIFEST, built()
    )


@pytest.mark.parametrize(
    ("levels", "wanted"),
    [
        (((8, 0.35), (16, 0.2)), "pictures: 8/255 per pixel"),  # exactly half counts
        (((8, 0.3501), (16, 0.2)), "pictures: 16/255 per pixel"),
        (((1, 0.1),), "nothing smaller was tried"),
        (((4, 0.3), (8, 0.5)), "pictures: 4/255 per pixel"),  # not monotone: the smaller one counts
        (((8, 0.6),), "not at the only evaluated budget, 8/255 per pixel"),
        (((2, 0.69), (8, 0.6)), "at none of the 2 evaluated budgets, the largest was 8/255 per pixel"),
    ],
)
def test_the_rule_of_breaking(levels, wanted):
    line = broken_at(*levels)
    assert wanted in line
    if "evaluated budget" in line:
        assert "more was not tried" in line


def test_chance_counts_as_broken_even_where_half_of_the_clean_map_is_less():
    weak = case("image-to-text", PROTOCOLS[0], "linf", 2 / 255, 0.14, clean=0.2)
    strong = case("image-to-text", PROTOCOLS[0], "linf", 1 / 255, 0.16, clean=0.2)
    found = built(worst_case=[weak, strong])
    assert breaking_point(found.worst_case).eps == 2 / 255
    assert not found.worst_case[1].broken


def test_only_the_main_protocol_and_task_decide():
    strict = case("image-to-text", PROTOCOLS[1], "linf", 1 / 255, 0.1)
    line = known_to_break_at(MANIFEST, built(worst_case=[*cases(), strict]))
    assert "pictures: 8/255" in line


def test_every_norm_that_a_client_can_send_is_told():
    extra = [case("image-to-text", PROTOCOLS[0], "l2", 2.0, 0.1)]
    extra.append(case("text-to-image", PROTOCOLS[0], "embedding", 0.05, 0.1))
    line = known_to_break_at(MANIFEST, built(worst_case=[*cases(((8, 0.6),)), *extra]))
    assert "L2 2 (image-to-text mAP 0.700 clean, 0.100 attacked" in line
    assert "RMS" not in line


def test_a_side_that_was_not_attacked_says_so():
    images = [row for row in cases() if row["task"] == "image-to-text"]
    assert "; texts: not evaluated." in known_to_break_at(MANIFEST, built(worst_case=images))
    assert "texts" not in broken_at((8, 0.1))


def test_a_model_that_was_never_evaluated_says_so():
    assert known_to_break_at(MANIFEST, None).startswith(
        "not evaluated. It was trained with the defence drfgd"
    )
    plain = {**MANIFEST, "defence": {"name": "none"}}
    assert known_to_break_at(plain, None).startswith("not evaluated. This model is not defended")
    text = model_card_text(MANIFEST, None)
    assert "## Robustness\n\nNot evaluated" in text
    assert "|---|---|---|---|---|---|---|" not in text


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 255), st.floats(0.02, 0.68)), min_size=1, unique_by=lambda p: p[0]))
def test_a_card_never_says_unbreakable(levels):
    line = broken_at(*levels)
    lowest = min((n for n, value in levels if value <= 0.35), default=None)
    if lowest is None:
        assert f"{max(n for n, _ in levels)}/255 per pixel" in line
        assert "more was not tried" in line
    else:
        assert f"pictures: {lowest}/255 per pixel" in line


# --- the card ----------------------------------------------------------------------------------------


def test_the_card_has_a_small_table_of_both_protocols():
    text = model_card_text(MANIFEST, built())
    rows = [line for line in text.splitlines() if line.startswith("| image-to-text")]
    assert len(rows) == len(LEVELS)
    assert rows[2] == "| image-to-text | 8/255 per pixel | 0.700 | 0.330 | 0.310 to 0.350 | 0.150 | 0.320 |"
    assert sum(line.startswith("| text-to-image") for line in text.splitlines()) == 3
    assert "2 gates of honesty were judged and hold; not judged: transfer." in text
    assert "- Data: scenes (train 500, database 200, query 100), 100 queries, split efefefefefef." in text
    assert "apgd:mainstay, words:mainstay" in text
    assert text.count("**Known to break at:**") == 1


def test_a_strict_figure_that_is_missing_is_called_so():
    main = [row for row in cases() if row["protocol"] == PROTOCOLS[0]]
    text = model_card_text(MANIFEST, built(worst_case=main))
    assert "| 0.150 | not measured |" in text


def test_names_of_others_cannot_write_the_card():
    table = robustness_table()
    table["data"]["name"] = "x | y <script>alert(1)</script> `z`"
    text = model_card_text(MANIFEST, build_robustness(table, "r"))
    assert "x \\| y &lt;script>alert(1)&lt;/script> 'z'" in text
