"""From report.json into an artefact: only the evaluated model, only when its gates hold, all or none."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1]))

from artefact_parts_made import make_parts
from robustness_made import PROTOCOLS, cases, figures, robustness_table
from variants import save_variant

from model.artefact import full_card, read_card, save_artefact, verify
from model.data.manifest import read_manifest
from model.errors import ArtefactError, DataError
from model.evaluation.commands import evaluate
from model.evaluation.recording import failed_gates, read_report, record
from model.registry_commands import app as model_app

app = typer.Typer()
app.command()(evaluate)
ATTACKS = "apgd:mainstay@16/255,noise:mainstay,typos:mainstay"


def report_on(*cards):
    """A report of the shape of report.json that says of every card what `robustness_table` holds."""
    made = robustness_table()
    threat = {**made["threat"], "profile": "quick", "seed": "0", "command": made["command"]}
    report = {
        "format": 1,
        "data": {**made["data"], "labels": 5, "disjoint": True, "unlabelled": 0, "excluded": {}},
        "threat": {**threat, "versions": made["versions"], "machine": {}},
        **{name: [] for name in ("models", "rows", "worst_case", "checks", "left_out")},
    }
    for card in cards:
        label = f"{card.name}/{card.version}"
        clean = {task: dict.fromkeys(PROTOCOLS, figures(0.70)) for task in ("image-to-text", "text-to-image")}
        report["models"].append({"label": label, "digest": card.digest, "twin": None, "clean": clean})
        report["worst_case"] += [{"model": label, "floor": 0.1, "bits": 16, **row} for row in cases()]
        report["rows"] += [{"model": label, **row} for row in rows()]
        for name in ("deterministic", "works-on-twin"):
            report["checks"].append(
                {"model": label, "name": name, "holds": True, "detail": "", "figures": {}}
            )
        report["left_out"].append({"model": label, "what": "gate transfer", "why": "no surrogate was given"})
    return json.loads(json.dumps(report))


def rows():
    """Clean, natural and attacked rows, the attacked ones for two protocols."""
    idle = {"side": "image", "norm": "none", "eps": 0.0, "steps": 0, "restarts": 0, "queries": 0, "n": 100}
    found = [{**idle, "attack": "none", "purpose": "clean"}]
    found.append({**idle, "attack": "natural:jpeg", "purpose": "natural", "norm": "natural", "eps": 3.0})
    attacked = {**idle, "attack": "apgd:mainstay", "purpose": "suite", "norm": "linf", "eps": 8 / 255}
    return found + [{**attacked, "steps": 30, "restarts": 2, "n": n} for n in (98, 100)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    return [save_artefact(models, name, make_parts(seed=seed)) for seed, name in enumerate(("tiny", "other"))]


@pytest.fixture
def folders(trained, tmp_path):
    return [shutil.copytree(folder, tmp_path / folder.parent.name / "1") for folder in trained]


def recorded(folder):
    verify(folder)
    return full_card(read_card(folder))["robustness"]


# --- from the report's dict --------------------------------------------------------------------------


def test_a_model_gets_its_own_figures_and_the_others_stay(folders):
    cards = [read_card(folder) for folder in folders]
    report = report_on(*cards)
    report["worst_case"] = [
        {**row, "map": 0.03, "lo": 0.0} if row["model"] == "other/1" else row for row in report["worst_case"]
    ]
    assert [card.digest for card in record(report, folders[:1])] == [cards[0].digest]
    found = recorded(folders[0])
    assert recorded(folders[1]) is None
    wanted = robustness_table(cards[0].digest)
    once = [{**rows()[-1]}]
    assert found == {**wanted, "attacks": once}


def test_rows_without_a_figure_are_left_away(folders):
    report = report_on(read_card(folders[0]))
    report["worst_case"][0].update(map=None, lo=None, hi=None, clean_map=None, chance=None, n=0)
    report["models"][0]["clean"]["image-to-text"]["database"] = figures(0.7) | {"map": None, "lo": None}
    report["worst_case"] = [
        row for row in report["worst_case"] if (row["task"], row["protocol"]) != ("image-to-text", "database")
    ]
    record(report, folders[:1])
    found = recorded(folders[0])
    assert len(found["clean"]) == 3
    assert len(found["worst_case"]) == 9
    assert "8/255" in full_card(read_card(folders[0]))["known_to_break_at"]


@pytest.mark.parametrize("of", [0, 1])
def test_a_gate_that_does_not_hold_keeps_every_model_as_it_was(folders, of):
    report = report_on(*map(read_card, folders))
    report["checks"][2 * of].update(holds=False)
    label = report["models"][of]["label"]
    assert failed_gates(report, ["tiny/1", "other/1"]) == [f"{label}: deterministic"]
    with pytest.raises(DataError, match=f"nothing is recorded: .*{label}: deterministic"):
        record(report, folders)
    assert [recorded(folder) for folder in folders] == [None, None]
    record(report, [folders[1 - of]])  # the other one's gates hold
    assert recorded(folders[1 - of]) is not None


def test_a_report_that_judged_nothing_is_not_enough(folders):
    report = report_on(read_card(folders[0]))
    report["checks"] = []
    with pytest.raises(DataError, match=r"gates\.judged: Input should be greater than or equal to 1, got 0"):
        record(report, folders[:1])


def test_the_evaluated_model_is_wanted(folders):
    one, two = map(read_card, folders)
    with pytest.raises(
        DataError, match=f"tiny/1 with the digest {one.digest}; the report is on other/1 .*{two.digest}"
    ):
        record(report_on(two), folders[:1])
    with pytest.raises(DataError, match="wanted a report on this model"):
        record(report_on(one, one), folders[:1])
    with pytest.raises(DataError, match="the report is on none"):
        record(report_on(), folders[:1])
    with pytest.raises(ArtefactError, match=r"manifest\.json"):
        record(report_on(one), [folders[0].parent])
    assert [recorded(folder) for folder in folders] == [None, None]


def test_all_models_or_none(folders):
    """The second model's figures cannot be recorded, so the first one's are not either."""
    report = report_on(*map(read_card, folders))
    report["worst_case"][-1]["map"] = 0.99
    with pytest.raises(DataError, match="report on other/1: worst_case"):
        record(report, folders)
    assert [recorded(folder) for folder in folders] == [None, None]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("models",), None, "report: models: wanted list, got NoneType"),
        (("models",), ["x"], r"models\[0\]: wanted an object, got str"),
        (("models", 0, "label"), [], "models: label: wanted str, got list"),
        (("models", 0, "clean"), [], "models: clean: wanted dict, got list"),
        (("models", 0, "clean"), {"image-to-text": 3}, "clean: image-to-text: wanted dict, got int"),
        (("models", 0, "clean"), {"image-to-text": {"database": 3}}, "database: wanted dict, got int"),
        (("models", 0, "clean"), {}, "clean: List should have at least 1 item"),
        (("models", 0, "twin"), {"digest": 3}, "twin: Input should be a valid string, got 3"),
        (("threat",), 5, "report: threat: wanted dict, got int"),
        (("threat", "seed"), "none", "seed: Input should be a valid integer, got 'none'"),
        (("threat", "profile"), "x\ny", "profile: wanted printable characters"),
        (("data",), {}, "data.name: Field required"),
        (("rows", 2, "n"), "many", "rows: n: wanted int, got str"),
        (("rows", 2, "eps"), [], "attacks.0.eps: Input should be a valid number"),
        (("worst_case", 0, "norm"), {}, "worst_case.0.norm: Input should be"),
        (("worst_case", 0, "attacks"), [{}], "worst_case.0.attacks.0: Input should be a valid string"),
        (("checks", 0, "holds"), "yes", "checks: holds: wanted bool, got str"),
        (("checks", 0, "name"), None, "checks: name: wanted str, got NoneType"),
        (("left_out", 0, "what"), 1, "left_out: what: wanted str, got int"),
        (("left_out", 0, "why"), None, "not_judged.0.why: Input should be a valid string"),
    ],
)
def test_strange_reports_are_refused_by_the_name_of_the_field(folders, path, value, message):
    report = report_on(read_card(folders[0]))
    *steps, last = path
    place = report
    for step in steps:
        place = place[step]
    place[last] = value
    with pytest.raises(DataError, match=message):
        record(report, folders[:1])
    assert recorded(folders[0]) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "wanted JSON"),
        (b"[]", "wanted a JSON object"),
        (b'{"format": 2}', "wanted a report of format 1, got 2"),
        (b'{"format": NaN}', "NaN is no JSON"),
    ],
)
def test_files_that_are_no_report(tmp_path, data, message):
    (tmp_path / "report.json").write_bytes(data)
    for path in (tmp_path, tmp_path / "report.json"):
        with pytest.raises(DataError, match=message):
            read_report(path)
    with pytest.raises(DataError, match="wanted a file"):
        read_report(tmp_path / "nowhere.json")


# --- the commands --------------------------------------------------------------------------------------


def model_record(*words):
    return CliRunner().invoke(model_app, ["record", *map(str, words)], env={"COLUMNS": "300"})


def test_model_record_takes_a_report_or_its_folder(folders, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(report_on(read_card(folders[0]))))
    ran = model_record(folders[0], "--report", tmp_path)
    assert ran.exit_code == 0, ran.output
    assert "tiny/1: recorded; known to break at: pictures: 8/255" in ran.output
    ran = model_record("tiny", "--models", tmp_path, "--report", tmp_path / "report.json", "--json")
    shown = json.loads(ran.stdout)
    assert shown["recorded"] is True
    assert shown["digest"] == read_card(folders[0]).digest
    listed = CliRunner().invoke(model_app, ["verify", str(folders[0])])
    assert listed.exit_code == 0, listed.output
    assert "| image-to-text | 8/255" in CliRunner().invoke(model_app, ["show", str(folders[0])]).output


def test_model_record_refuses_another_model_and_failed_gates(folders, tmp_path):
    report = report_on(read_card(folders[1]))
    (tmp_path / "report.json").write_text(json.dumps(report))
    ran = model_record(folders[0], "--report", tmp_path)
    assert ran.exit_code == 1
    assert "wanted a report on this model" in ran.output
    report["checks"][1]["holds"] = False
    (tmp_path / "report.json").write_text(json.dumps(report))
    ran = model_record(folders[1], "--report", tmp_path)
    assert ran.exit_code == 1
    assert "these do not: other/1: works-on-twin" in ran.output
    assert [recorded(folder) for folder in folders] == [None, None]


@pytest.fixture
def call(small_data, tmp_path):
    def invoke(*options):
        words = ["--data", str(small_data), "--out", str(tmp_path / "out"), "--device", "cpu"]
        words += ["--queries", "24", "--attacks", ATTACKS, "--record", *map(str, options)]
        return CliRunner().invoke(app, words)

    return invoke


def test_evaluate_records_what_it_measured(call, undefended, undefended_folder, small_data, tmp_path):
    folder = shutil.copytree(undefended_folder, tmp_path / "small-0" / "1")
    ran = call("--model", folder)
    assert ran.exit_code == 0, ran.output
    assert "recorded in the models" in ran.output
    found = recorded(folder)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["model"]["digest"] == undefended.digest == read_card(folder).digest
    assert found["data"]["fingerprint"] == read_manifest(small_data).fingerprint
    assert found["data"]["split_digest"] == report["data"]["split_digest"]
    assert {row["protocol"] for row in found["worst_case"]} == set(PROTOCOLS)
    for row, wanted in zip(found["worst_case"], report["worst_case"], strict=True):
        assert row == {name: wanted[name] for name in row}
    clean = report["models"][0]["clean"]
    for row in found["clean"]:
        wanted = clean[row["task"]][row["protocol"]]
        assert row == {
            "task": row["task"],
            "protocol": row["protocol"],
            **{k: wanted[k] for k in row if k in wanted},
        }
    assert {attack["attack"] for attack in found["attacks"]} == set(ATTACKS.replace("@16/255", "").split(","))
    assert found["gates"]["judged"] == len(report["checks"])
    assert {gate["name"] for gate in found["gates"]["not_judged"]} >= {"convergence", "unbounded"}
    assert "Known to break at:** pictures: " in (folder / "README.md").read_text()
    again = model_record(folder, "--report", tmp_path / "out", "--json")
    assert again.exit_code == 0, again.output
    assert recorded(folder) == found


def test_evaluate_records_nothing_when_a_gate_fails(call, undefended, undefended_folder, tmp_path):
    """A defended model without a twin fails works-on-twin; the other model's gates hold, and still."""
    claimed = save_variant(undefended, tmp_path, "claimed", defence="saat", sides=("image",))
    folder = shutil.copytree(undefended_folder, tmp_path / "small-0" / "1")
    ran = call("--model", folder, "--model", claimed, "--json")
    assert ran.exit_code == 1
    shown = json.loads(ran.stdout)
    assert (shown["holds"], shown["recorded"]) == (False, False)
    assert "error: nothing is recorded" in ran.stderr
    assert "claimed/1: works-on-twin" in ran.stderr
    assert (tmp_path / "out" / "report.json").exists()
    assert [recorded(folder), recorded(claimed)] == [None, None]


def test_evaluate_says_when_a_model_cannot_be_written(call, undefended_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(undefended_folder, tmp_path / "small-0" / "1")

    def refuse(folder, digest, files):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("model.artefact.write_evidence", refuse)
    ran = call("--model", folder)
    assert ran.exit_code == 1
    assert "Read-only file system" in ran.stderr
    assert (tmp_path / "out" / "report.html").exists()
    assert recorded(folder) is None
