"""What happens beside the steps of a run: bar, log, checkpoints, and the wish to stop."""

import signal
import time
from typing import Any

from model.training.checkpoint import Identity, save_checkpoint
from model.training.display import Display, Scalars, epoch_line
from model.training.distributed import World
from model.training.loop import Trainer
from model.training.runs import RunFolder
from model.training.stopping import StopWish

SHOWN_EVERY_S = 0.1


class Observer:
    """A `Watcher` that writes; in every process but the first it only listens for the stop."""

    def __init__(
        self, run: RunFolder, identity: Identity, world: World, display: Display, wish: StopWish
    ) -> None:
        """Open the log."""
        self._run, self._identity, self._world = run, identity, world
        self._display, self._wish = display, wish
        self._scalars = Scalars(run.logs) if world.leads else None
        self._saved_step = -1
        self._shown = 0.0

    @property
    def signum(self) -> int:
        """The signal that asked for the stop; SIGTERM when another process heard it."""
        return self._wish.signum or signal.SIGTERM

    def after_step(self, trainer: Trainer, terms: dict[str, float], rate: float) -> bool:
        """Show and log the step; when a stop is wished anywhere, save and say so."""
        if self._scalars is not None:
            self._scalars.step(trainer.step, terms, rate)
            now = time.monotonic()
            if now - self._shown >= SHOWN_EVERY_S:
                self._shown = now
                note = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
                self._display.progress("training", trainer.step, trainer.total, note)
        stop = self._world.any(bool(self._wish))
        if stop:
            self._save(trainer)
        return stop

    def after_epoch(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Log the epoch and save a checkpoint."""
        if self._scalars is not None:
            self._scalars.epoch(trainer.step, record)
            self._display.say(epoch_line(record, trainer.recipe.schedule.epochs))
        self._save(trainer)

    def close(self) -> None:
        """Close the log."""
        if self._scalars is not None:
            self._scalars.close()

    def _save(self, trainer: Trainer) -> None:
        """A checkpoint of this step, once, by the first process."""
        if self._world.leads and self._saved_step != trainer.step:
            save_checkpoint(self._run.checkpoints, trainer.snapshot(), self._identity)
            self._saved_step = trainer.step
