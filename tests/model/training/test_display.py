"""What a user sees and what TensorBoard gets."""

import io

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.training import display
from model.training.display import Scalars, Silent, Terminal, epoch_line


@pytest.fixture
def screen(monkeypatch):
    """A terminal that is a string."""
    shown = io.StringIO()

    def console(**options):
        return Console(file=shown, force_terminal=True, width=120, soft_wrap=options["soft_wrap"])

    monkeypatch.setattr(display, "Console", console)
    return shown


def test_the_bar_shows_what_how_far_and_the_losses(screen):
    with Terminal() as terminal:
        terminal.progress("decoding images", 3, 10)
        terminal.progress("training", 7, 20, "inter 0.5 [bold]")
        terminal._bar.refresh()
        terminal.say("[red]a stranger's file name[/red]")
    text = screen.getvalue()
    for word in ("training", "7/20", "inter 0.5 [bold]", "[red]a stranger's file name[/red]"):
        assert word in text


def test_without_a_terminal_only_lines_are_written(capsys):
    with Terminal() as terminal:
        terminal.progress("training", 1, 2)
        terminal.say("one line")
    assert capsys.readouterr().err == "one line\n"


def test_silence_is_silent(capsys):
    silent = Silent()
    silent.say("x")
    silent.progress("y", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_tensorboard_reads_what_was_logged(tmp_path):
    scalars = Scalars(tmp_path)
    scalars.step(1, {"inter": 2.0, "proxy": 1.0}, 0.1)
    scalars.step(2, {"inter": 1.5, "proxy": 0.5}, 0.2)
    scalars.epoch(2, {"held_out": {"image-to-text": 0.4}})
    scalars.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/total")] == [(1, 3.0), (2, 2.0)]
    assert [e.value for e in events.Scalars("rate")] == pytest.approx([0.1, 0.2])
    assert events.Scalars("held_out/image-to-text")[0].value == pytest.approx(0.4)


def test_an_epochs_line():
    record = {"epoch": 2, "losses": {"inter": 0.5}, "held_out": {"text-to-image": 0.25}}
    assert epoch_line(record, 9) == "epoch 2/9  inter 0.500  | held out: text-to-image 0.250"
    assert epoch_line({"epoch": 1, "losses": {"inter": 0.5}}, 9) == "epoch 1/9  inter 0.500"


def test_figures_stand_between_losses_and_scores():
    record = {"epoch": 2, "losses": {"inter": 1.0}, "figures": {"inner_steps": 2.0}, "held_out": {"i2t": 0.5}}
    line = epoch_line(record, 3)
    assert line == "epoch 2/3  inter 1.000  | figures: inner_steps 2.000  | held out: i2t 0.500"
    assert epoch_line({"epoch": 1, "losses": {"inter": 1.0}}, 3) == "epoch 1/3  inter 1.000"
