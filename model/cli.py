"""The model side's commands: `python -m model.cli train | attack | evaluate | ...` (what `torchrun` starts).

The command `hashguard` mounts the same commands through the entry-point group `hashguard.commands`.
"""

import typer

from model.attacks.commands import attack
from model.data.commands import app as data_app
from model.evaluation.commands import evaluate
from model.registry_commands import app as model_app
from model.retraining.commands import retrain
from model.training.commands import train

app = typer.Typer(
    name="hashguard-model", no_args_is_help=True, help="Train, attack, judge models; handle data."
)
app.command("train")(train)
app.command("retrain")(retrain)
app.command("attack")(attack)
app.command("evaluate")(evaluate)
app.add_typer(data_app, name="data")
app.add_typer(model_app, name="model")

if __name__ == "__main__":
    app()
