"""The generic loop: a defence's named terms go in, optimiser steps come out.

Only this module calls ``backward()`` and ``step()``. It knows the phases and groups a defence declares and
nothing of what is inside them.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.defences.base import Batch, Defence, Phase, StepState
from model.errors import TrainingError
from model.hashers.base import CrossModalHasher
from model.training.averaging import Averaged
from model.training.batches import Feed
from model.training.checkpoint import Snapshot
from model.training.config import Recipe
from model.training.edits import hardest
from model.training.optimisers import build_optimisers, set_rate
from model.training.phases import check_groups, frozen_except
from model.training.randomness import lent_randomness, make_generator
from model.training.schedule import rate_factor
from model.training.validation import selection_score

Validate = Callable[[CrossModalHasher], dict[str, float]]
"""Held-out mAP by task, of a hasher in evaluation mode; empty when nothing is held out."""


class Watcher(Protocol):
    """Who follows a run: shows it, records it, saves it, and may ask it to stop."""

    def after_step(self, trainer: "Trainer", terms: dict[str, float], rate: float) -> bool:
        """Called after every step; true asks for a stop."""
        ...

    def after_epoch(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        """Called after every epoch with its entry in the history."""
        ...


class _Losses(nn.Module):
    """Hasher and defence under one ``forward``, which is where DistributedDataParallel listens."""

    def __init__(self, hasher: CrossModalHasher, defence: Defence) -> None:
        super().__init__()
        self.hasher = hasher
        self.defence = defence

    def forward(self, batch: Batch, state: StepState) -> dict[str, Tensor]:
        return self.defence.losses(self.hasher, batch, state)


class Trainer:
    """One run's moving parts. `run` goes from wherever the counters are to the end."""

    def __init__(
        self, recipe: Recipe, hasher: CrossModalHasher, defence: Defence, feed: Feed, validate: Validate
    ) -> None:
        """Take a hasher and a defence with fresh weights and put them on the feed's device."""
        self.recipe, self.feed, self.world, self.validate = recipe, feed, feed.world, validate
        device = self.world.device
        self.hasher = hasher.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.defence = defence.to(device)
        self.groups = dict(defence.groups(hasher))
        check_groups(self.defence, hasher)
        self.optimisers = build_optimisers(self.groups, recipe.optimiser)
        self.average = Averaged(hasher, recipe.optimiser.average)
        self.forward = self._connected(_Losses(self.hasher, self.defence))
        self.step = 0
        self.sums: dict[str, float] = {}
        self.figures: dict[str, float] = {}
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.best_score = float("-inf")
        self.best_epoch = 0

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.feed.steps * self.recipe.schedule.epochs

    @property
    def epoch(self) -> int:
        """The epoch the next step belongs to, from 0."""
        return self.step // self.feed.steps

    def run(self, watcher: Watcher) -> bool:
        """Train to the end, or until the watcher asks for a stop; true when the end was reached.

        Raises:
            TrainingError: a loss is not finite.

        """
        while self.step < self.total:
            if not self._run_epoch(watcher):
                return False
        return True

    def _run_epoch(self, watcher: Watcher) -> bool:
        """The rest of the current epoch; false when the watcher asked for a stop within it."""
        epoch = self.epoch
        self.forward.train()
        for batch in self.feed.epoch(epoch, done=self.step % self.feed.steps):
            terms, rate = self._train(batch)
            for name, value in terms.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.step += 1
            if self.step % self.feed.steps == 0:
                self._close_epoch(epoch, rate, watcher)
            if watcher.after_step(self, terms, rate):
                return False
        return True

    def _train(self, batch: Batch) -> tuple[dict[str, float], float]:
        """One step: every phase's losses, gradients and optimiser steps; the terms and the rate."""
        schedule = self.recipe.schedule
        rate = self.recipe.optimiser.rate * rate_factor(
            self.step, self.total, schedule.warm_up, schedule.floor
        )
        values: dict[str, float] = {}
        batch = hardest(self.hasher, batch)
        for phase in self.defence.phases:
            if not self.defence.due(phase.name, self.step, self.total):
                continue
            with frozen_except(self.groups, phase.trains):
                terms = self._phase(phase, batch, rate)
            values |= {name: float(term.detach()) for name, term in terms.items()}
        self.average.update(self.hasher, self.step + 1)
        return values, rate

    def _phase(self, phase: Phase, batch: Batch, rate: float) -> dict[str, Tensor]:
        """Losses, gradients, and a step of the groups that the phase trains."""
        seed, device, rank = self.recipe.seed, self.world.device, self.world.rank
        path = ("step", self.step, phase.name, rank)
        state = StepState(
            phase=phase.name,
            step=self.step,
            total=self.total,
            generator=make_generator(device, seed, "defence", *path),
            gather=self.world.gather,
            autocast=self._autocast,
            figures=self.figures,
            average=self.average.model,
        )
        with lent_randomness(device, seed, *path), state.held:
            terms: dict[str, Tensor] = self.forward(batch, state)
            loss = torch.stack(list(terms.values())).sum()
            if not bool(loss.isfinite()):
                shown = ", ".join(f"{name} {float(term.detach()):.4g}" for name, term in terms.items())
                raise TrainingError(
                    f"the loss is not finite at step {self.step} ({shown}); "
                    "a lower optimiser.rate or optimiser.clip usually helps"
                )
            for module in self.groups.values():
                module.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        for group in phase.trains:
            if group in self.optimisers:
                if self.recipe.optimiser.clip:
                    nn.utils.clip_grad_norm_(self.groups[group].parameters(), self.recipe.optimiser.clip)
                set_rate(self.optimisers[group], rate)
                self.optimisers[group].step()
        return terms

    def _close_epoch(self, epoch: int, rate: float, watcher: Watcher) -> None:
        """Means of the epoch's terms, a look at the held-out part, the best so far."""
        means = {name: value / self.feed.steps for name, value in self.sums.items()}
        self.sums = {}
        record: dict[str, Any] = {"epoch": epoch + 1, "losses": means, "rate": rate}
        if self.figures:
            record["figures"] = dict(self.figures)
        every = self.recipe.schedule.validate_every
        if self.world.leads and ((epoch + 1) % every == 0 or self.step == self.total):
            self._look(record)
        self.history.append(record)
        watcher.after_epoch(self, record)

    def _look(self, record: dict[str, Any]) -> None:
        """Validate the average and keep it when it is the best."""
        scores = self.validate(self.average.model)
        record["held_out"] = scores
        score = selection_score(scores)
        if self.recipe.schedule.select == "last" or score > self.best_score or not self.best:
            self.best_score, self.best_epoch = score, record["epoch"]
            self.best = {name: t.detach().clone() for name, t in self.average.model.state_dict().items()}

    def _autocast(self) -> AbstractContextManager[None]:
        """The precision for towers."""
        device = self.world.device.type
        if self.recipe.precision == "bf16" or (self.recipe.precision == "auto" and device == "cuda"):
            return torch.autocast(device, dtype=torch.bfloat16)
        return nullcontext()

    def _connected(self, losses: _Losses) -> nn.Module:
        """The losses, in DistributedDataParallel when there are several processes.

        Parameters without a gradient are looked for in every pass: a phase uses only some modules, and a
        process's part may lack a modality.
        """
        if self.world.size == 1:
            return losses
        ids = [self.world.device] if self.world.device.type == "cuda" else None
        return DistributedDataParallel(losses, device_ids=ids, find_unused_parameters=True)

    def snapshot(self) -> Snapshot:
        """Everything that `restore` needs."""
        owners = {"hasher": self.hasher, "defence": self.defence, "average": self.average.model}
        tensors = {owner: dict(module.state_dict()) for owner, module in owners.items()}
        tensors["best"] = dict(self.best)
        counters = {
            "step": self.step,
            "sums": dict(self.sums),
            "figures": dict(self.figures),
            "history": self.history,
            "best_score": self.best_score if self.best else None,
            "best_epoch": self.best_epoch,
        }
        optimisers = {group: optimiser.state_dict() for group, optimiser in self.optimisers.items()}
        return Snapshot(tensors, optimisers, counters)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where a snapshot was taken."""
        owners = {"hasher": self.hasher, "defence": self.defence, "average": self.average.model}
        for owner, module in owners.items():
            module.load_state_dict(snapshot.tensors.get(owner, {}))
        self.best = {n: t.to(self.world.device) for n, t in snapshot.tensors.get("best", {}).items()}
        for group, optimiser in self.optimisers.items():
            optimiser.load_state_dict(snapshot.optimisers[group])
        counters = snapshot.counters
        self.step, self.sums = counters["step"], dict(counters["sums"])
        self.figures = dict(counters["figures"])
        self.history, self.best_epoch = list(counters["history"]), counters["best_epoch"]
        self.best_score = float("-inf") if counters["best_score"] is None else counters["best_score"]

    def selected(self) -> CrossModalHasher:
        """The hasher to keep, in evaluation mode, on the run's device."""
        if self.best:
            self.average.model.load_state_dict(self.best)
        return self.average.model
