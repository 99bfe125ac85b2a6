"""`hashguard model list | show | verify` on real folders."""

import json

import pytest
from artefact_parts_made import make_parts
from typer.testing import CliRunner

from model.artefact import save_artefact
from model.registry_commands import app


@pytest.fixture
def home(tmp_path):
    save_artefact(tmp_path / "models", "tiny", make_parts())
    save_artefact(tmp_path / "models", "tiny", make_parts(text=None))
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def test_list(home):
    result = call("list", "--home", home)
    assert result.exit_code == 0
    assert "tiny/1" in result.output
    assert "16 bits, image and text, defence none" in result.output
    assert "tiny/2" in result.output


def test_list_as_json(home):
    shown = json.loads(call("list", "--models", home / "models", "--json").output)
    assert [model["version"] for model in shown["models"]] == ["1", "2"]
    assert shown["models"][1]["modalities"] == ["image"]
    assert shown["errors"] == []


def test_list_names_the_damaged_and_fails(home):
    (home / "models" / "tiny" / "1" / "manifest.json").write_text("{}")
    result = call("list", "--home", home)
    assert result.exit_code == 1
    assert "damaged:" in result.output
    assert "tiny/2" in result.output
    assert len(json.loads(call("list", "--home", home, "--json").output)["errors"]) == 1


def test_empty_home(tmp_path):
    result = call("list", "--home", tmp_path)
    assert result.exit_code == 0
    assert "0 model(s)" in result.output


def test_show(home):
    result = call("show", "tiny/1", "--home", home)
    assert result.exit_code == 0
    assert "Known to break at:" in result.output
    shown = json.loads(call("show", "tiny", "--home", home, "--json").output)
    assert shown["version"] == "2"
    assert shown["robustness"] is None


def test_verify(home):
    assert call("verify", "latest", "--home", home).exit_code == 0
    shown = json.loads(call("verify", "tiny/1", "--home", home, "--json").output)
    assert shown["ok"] is True
    assert shown["model"] == "tiny/1"
    (home / "models" / "tiny" / "1" / "model.safetensors").write_bytes(b"x")
    result = call("verify", "tiny/1", "--home", home)
    assert result.exit_code == 1
    assert "model.safetensors" in result.output
    assert "wanted" in result.output


@pytest.mark.parametrize("command", ["show", "verify"])
def test_model_that_is_not_there(home, command):
    result = call(command, "nobody", "--home", home)
    assert result.exit_code == 1
    assert "there: tiny/1, tiny/2" in result.output


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_model_may_be_named_by_its_folder(home, tmp_path, command):
    folder = next((home / "models").glob("*/*/manifest.json")).parent
    answer = call(command, folder, "--home", tmp_path / "elsewhere")
    assert answer.exit_code == 0, answer.output
    empty = tmp_path / "empty"
    empty.mkdir()
    assert call(command, empty).exit_code == 1
