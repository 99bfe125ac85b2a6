"""`train` as a process: output, exit status, signals, several processes under torchrun."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from model.artefact import list_models, verify
from model.cli import app
from model.training.config import load_recipe
from model.training.display import Terminal

RECIPE = """
[architecture.image]
kind = "residual_cnn"
size = 16
stem = 4
widths = [6, 8]
pools = [0, 2]
hidden = 8
[architecture.text]
kind = "conv"
max_length = 12
dim = 8
width = 8
layers = 1
hidden = 8
[data]
validation = 0.25
[schedule]
epochs = 3
batch = 16
[optimiser]
rate = 0.01
"""


@pytest.fixture
def recipe_file(tmp_path):
    def write(content=RECIPE, **schedule):
        path = tmp_path / "tiny.toml"
        for key, value in schedule.items():
            content = re.sub(rf"^{key} = .*$", f"{key} = {value}", content, flags=re.MULTILINE)
        path.write_text(content)
        return str(path)

    return write


@pytest.fixture
def call(folder, tmp_path):
    """Arguments of a training command."""

    def arguments(recipe, *more, out="models"):
        data = ["--data", str(folder), "--out", str(tmp_path / out)]
        return ["train", *data, "--recipe", recipe, "--bits", "16", *more]

    return arguments


def run(arguments, launcher=("-m",), **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, *launcher, "model.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)


def epochs(output):
    """The loss terms of each epoch's line."""
    lines = re.findall(r"^epoch \d+/\d+  (.*?)(?:  \||$)", output, flags=re.MULTILINE)
    return [{n: float(v) for n, v in (term.rsplit(" ", 1) for term in line.split("  "))} for line in lines]


def test_the_folder_is_printed_last(call, recipe_file, tmp_path):
    result = CliRunner().invoke(app, call(recipe_file(), "--defence", "none"))
    assert result.exit_code == 0, result.output
    last = result.stdout.strip().splitlines()[-1]
    assert last == str(tmp_path / "models" / "squares-none-16" / "1")
    assert verify(tmp_path / "models" / "squares-none-16" / "1").bits == 16
    assert "epoch 3/3" in result.stderr


def test_json_is_the_only_thing_on_stdout(call, recipe_file):
    arguments = call(recipe_file(), "--json", "--seed", "4", "--epochs", "1", "--name", "mine")
    result = CliRunner().invoke(app, arguments)
    document = json.loads(result.stdout)
    assert document["folder"].endswith("mine/1")
    assert (document["name"], document["version"], document["seed"]) == ("mine", "1", 4)
    assert set(document["held_out_map"]) >= {"image-to-text", "text-to-image"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--defence", "magic"], "unknown defence 'magic'"),
        (["--bits", "17"], "got 17"),
        (["--epochs", "0"], "schedule.epochs"),
        (["--seed", "-1"], "seed"),
        (["--recipe", "fancy"], "unknown recipe 'fancy'; known: default"),
        (["--device", "abacus"], "abacus"),
        (["--data", "absent-folder"], "absent-folder"),
        (["--backbone", "somewhere"], "no `source`"),
        (["--wordnet", "somewhere"], "text_edits is 0"),
        (["--wordnet", "somewhere", "--set", "augment.text_edits=0.5"], "wanted WordNet's"),
        (["--resume"], "without --resume"),
    ],
)
def test_refusals_are_one_line_and_status_1(call, recipe_file, more, said):
    result = CliRunner().invoke(app, call(recipe_file(), *more))
    assert result.exit_code == 1
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_help_does_not_wait_for_torch():
    code = "import sys, model.training.commands; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_sub_commands_are_there():
    result = CliRunner().invoke(app, ["--help"])
    for name in ("train", "data", "model"):
        assert name in result.stdout


def test_ctrl_c_ends_with_130_and_resume_goes_on(call, recipe_file, monkeypatch):
    say = Terminal.say

    def pressing(self, message):
        say(self, message)
        if message.startswith("epoch 2/"):
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "say", pressing)
        stopped = CliRunner().invoke(app, call(recipe_file()))
    assert stopped.exit_code == 130
    assert "stopped at step 6 of 9; the same command with --resume continues" in stopped.stderr
    continued = CliRunner().invoke(app, call(recipe_file(), "--resume"))
    assert continued.exit_code == 0
    assert "continuing at step 6 of 9" in continued.stderr
    assert continued.stdout.strip().endswith("1")


def test_sigterm_ends_the_process_with_143_and_a_checkpoint(call, recipe_file, tmp_path):
    recipe = recipe_file(epochs=300)
    command = [sys.executable, "-m", "model.cli", *call(recipe)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    heard = ""
    while "epoch 2/" not in heard:
        heard += process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "--resume continues" in rest
    stopped = int(re.search(r"stopped at step (\d+) of 900", rest).group(1))
    newest = max((tmp_path / "models" / ".runs" / "squares-none-16" / "checkpoints").iterdir())
    assert newest.name == f"step-{stopped:010d}"
    assert list_models(tmp_path / "models") == []


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


def test_two_processes_with_batch_norm_follow_it_within_noise(recipe_file, write_pairs, tmp_path):
    def change(i, row):
        """Some items of one modality only, so that a process's part may lack one."""
        return row | ({"image": None} if i % 8 == 1 else {}) | ({"texts": []} if i % 8 == 2 else {})

    data = write_pairs(tmp_path / "mixed", 72, change=change)
    arguments = ["train", "--data", str(data), "--recipe", recipe_file(), "--bits", "16", "--out"]
    together = run([*arguments, str(tmp_path / "two")], TORCHRUN, timeout=240)
    assert together.returncode == 0, together.stderr[-2000:]
    assert [card.version for card in list_models(tmp_path / "two")] == ["1"], "only the first process writes"
    alone = CliRunner().invoke(app, [*arguments, str(tmp_path / "one")])
    for one, two in zip(epochs(together.stderr), epochs(alone.stderr), strict=True):
        assert one == pytest.approx(two, rel=0.15, abs=0.1)


def test_the_default_recipe_trains_on_a_tiny_set(folder, tmp_path):
    arguments = ["train", "--data", str(folder), "--out", str(tmp_path / "models"), "--epochs", "1"]
    began = time.monotonic()
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    card = list_models(tmp_path / "models")[0]
    assert card.manifest["defence"]["recipe"]["name"] == "default"
    assert card.bits == 64
    assert time.monotonic() - began < 60
    assert load_recipe("default").schedule.epochs > 1
