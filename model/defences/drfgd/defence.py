"""DRFGD, disentangled representation-focused generative defence, as a declaration of phases and terms.

Yu, Liu, Cheung, Hu, Fan, Zhou (AAAI 40(19), 2026, doi 10.1609/aaai.v40i19.38659). Only the abstract is
public; what it leaves open and what we chose is in docs/method.md. A step is up to four phases:

    separate   encoders and label classifier                       (a), every `encoder_every` steps
    generate   generators, through resting hashers                 (b), every `generator_every` steps
    judge      discriminators, on what the generators then make     (b), with them
    hash       the hashers: benign, attacked and generated inputs  (c), every step

The adversaries are made once per step, in its first phase, and kept for the others. The hasher itself has
nothing new: serving pays nothing, and encoders and classifier are kept for the attack score alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model.branches import BranchSizes, SemanticEncoders
from model.defences.base import Batch, Defence, DefenceContext, Phase, StepState
from model.defences.centres import StoredCodes
from model.defences.drfgd.discriminators import ImageDiscriminator, TextDiscriminator
from model.defences.drfgd.generation import Made, Reading, critic_terms, generation_terms, make, read
from model.defences.drfgd.generators import ImageGenerator, TextGenerator
from model.defences.drfgd.hashing import encode_generated, guidance_term, hashing_terms
from model.defences.drfgd.separation import attacked_labels, separation_terms
from model.defences.drfgd.settings import DrfgdSettings
from model.defences.drfgd.views import SIDES, View, make_views, resting
from model.defences.encoding import encode, encode_attacked, encode_together
from model.defences.extras import Extras
from model.defences.inner import Adversaries, InnerAttack
from model.defences.saat import mainstay_distance
from model.errors import TrainingError
from model.hashers.base import CrossModalHasher
from model.losses.objective import Codes, HashObjective


@dataclass(eq=False)
class Work:
    """What the phases of one step share: who is attacked how, and what the encoders say of it."""

    step: int
    items: Tensor
    adversaries: Adversaries
    centres: Tensor
    views: dict[str, View]
    readings: dict[str, Reading] = field(default_factory=dict)


class Drfgd(Defence):
    """The parts (a), (b) and (c); see the module."""

    name: ClassVar[str] = "drfgd"
    phases: ClassVar[tuple[Phase, ...]] = (
        Phase("separate", ("encoders",)),
        Phase("generate", ("generators",)),
        Phase("judge", ("critics",)),
        Phase("hash", ("hasher", "objective")),
    )

    def __init__(self, settings: DrfgdSettings, context: DefenceContext) -> None:
        """Build all parts, also those that weights of 0 leave untouched: the draws of the others stay.

        Raises RecipeError, ArtefactError (a teacher).
        """
        super().__init__()
        self.settings = s = settings
        self.objective = HashObjective(context.loss, context.labels.mean(0), context.bits)
        self.stored = StoredCodes(context.labels, context.bits)
        self.inner = InnerAttack(s.inner_settings())
        self.extras = Extras(s.extras_settings(), context)
        embedding = context.embedding_width or 0
        sizes = BranchSizes(
            width=s.width,
            labels=context.labels.shape[1],
            image=s.image_channels,
            text=s.text_channels if embedding else 0,
            embedding=embedding,
        )
        self.encoders = SemanticEncoders(sizes)
        self.encoders.start_from(context.labels.mean(0))
        self.generators = nn.ModuleDict({"image": ImageGenerator(s.image_channels, s.width, s.reach)})
        self.critics = nn.ModuleDict({"image": ImageDiscriminator(s.image_channels)})
        if embedding:
            self.generators["text"] = TextGenerator(embedding, s.text_channels, s.width, s.reach)
            self.critics["text"] = TextDiscriminator(embedding, s.text_channels)
        self._work: Work | None = None

    def groups(self, hasher: CrossModalHasher) -> Mapping[str, nn.Module]:
        """One optimiser each for hashers, encoders, generators, discriminators and the label centres."""
        if hasher.text is not None and hasher.text.embedding_width != self.encoders.sizes.embedding:
            raise TrainingError(
                f"defence drfgd: built for embeddings of width {self.encoders.sizes.embedding}, "
                f"the text tower's have {hasher.text.embedding_width}"
            )
        return {
            "hasher": hasher,
            "encoders": self.encoders,
            "generators": self.generators,
            "critics": self.critics,
            "objective": self.objective,
        }

    def threat(self) -> dict[str, Any]:
        """The inner attack's budgets."""
        return self.inner.threat()

    def score_encoders(self) -> SemanticEncoders | None:
        """The encoders, whose disagreement is the attack score; None if nothing trains them to."""
        s = self.settings
        return self.encoders if s.robust and s.vulnerable else None

    def due(self, phase: str, step: int, total: int) -> bool:
        """Whether a phase has anything to do: its terms are on, it is its turn, and the attack has begun."""
        s, inner = self.settings, self.inner.settings
        if phase == "hash":
            return True
        if not max(inner.eps_image, inner.eps_text) or step / max(total, 1) < inner.begin:
            return False
        if phase == "separate":
            return s.encodes and step % s.encoder_every == 0
        if not s.generates or step % s.generator_every:
            return False
        return s.trains_generator if phase == "generate" else s.realism > 0

    def losses(self, hasher: CrossModalHasher, batch: Batch, state: StepState) -> dict[str, Tensor]:
        """The weighted terms of the phase."""
        if not self.inner.active(state):
            benign = encode(hasher, batch, state)
            self.stored.store(batch, benign, state)
            return dict(self.objective(benign))
        work = self._begun(hasher, batch, state)
        if state.phase == "hash":
            self._work = None
            return self._hash(hasher, batch, work, state)
        if state.phase == "separate":
            return self._separate(hasher, batch, work, state)
        return self._generate(hasher, work, state)

    def _begun(self, hasher: CrossModalHasher, batch: Batch, state: StepState) -> Work:
        """The step's work, begun by its first phase."""
        kept = self._work
        if kept is not None and kept.step == state.step and torch.equal(kept.items, batch.items):
            return kept
        self.stored.prime(hasher, batch, state)
        centres = self.stored.mainstay(batch.labels)
        adversaries = self.inner(hasher, batch, centres, state)
        views = make_views(hasher, batch, adversaries, centres, self.stored)
        self._work = Work(state.step, batch.items, adversaries, centres, views)
        return self._work

    def _separate(
        self, hasher: CrossModalHasher, batch: Batch, work: Work, state: StepState
    ) -> dict[str, Tensor]:
        """Part (a), both modalities added up."""
        s, parts = self.settings, []
        for view in work.views.values():
            wrong = None
            if s.vulnerable:
                with torch.no_grad(), resting(hasher, {view.side: view}):
                    codes = view.code(hasher, view.attacked, state)
                foreign = s.attacked_labels == "foreign"
                wrong = attacked_labels(codes, view.labels, work.centres, batch.labels, foreign=foreign)
                changed = (wrong != view.labels).any(1).float().mean()
                state.figures[f"changed labels, {view.side}s"] = float(changed)
            parts.append(separation_terms(self.encoders, view, wrong, s))
        return _added("encode", parts, self.encoders)

    def _generate(self, hasher: CrossModalHasher, work: Work, state: StepState) -> dict[str, Tensor]:
        """Part (b): the generators' terms, or the discriminators'."""
        parts = []
        for side, made in self._make(work, state, grad=state.phase == "generate").items():
            critic = self.critics[side]
            if state.phase == "judge":
                parts.append(critic_terms(made, critic, self.settings))
            else:
                parts.append(generation_terms(made, self.encoders, critic, hasher, self.settings, state))
        return _added("generate", parts, self.critics if state.phase == "judge" else self.generators)

    def _make(self, work: Work, state: StepState, *, grad: bool) -> dict[str, Made]:
        """What the generators make of the step's views."""
        readings = self._read(work)
        found = {}
        for side, view in work.views.items():
            across = _across(work, readings, side, self.settings.width)
            with torch.set_grad_enabled(grad):
                found[side] = make(
                    self.generators[side], view, readings[side], across, self.settings, state.generator
                )
        return found

    def _read(self, work: Work) -> dict[str, Reading]:
        """What the encoders say of the step's views, after (a)."""
        if not work.readings:
            work.readings = {side: read(self.encoders, view) for side, view in work.views.items()}
        return work.readings

    def _hash(
        self, hasher: CrossModalHasher, batch: Batch, work: Work, state: StepState
    ) -> dict[str, Tensor]:
        """Part (c). Benign inputs pass last, so that running statistics end nearest to theirs."""
        s = self.settings
        self.extras.perturb(hasher, state, self._hardness(hasher, batch, work, state))
        generated = None
        if s.generates:
            made = self._make(work, state, grad=False)
            carried = {
                side: torch.rand(len(each.x), generator=state.generator, device=each.x.device) < s.perturbed
                for side, each in made.items()
            }
            generated = encode_generated(hasher, batch, made, carried, state)
        benign, attacked = self._encode(hasher, batch, work.adversaries, state)
        self.stored.store(batch, benign, state)
        terms: dict[str, Tensor] = self.objective(benign)
        mainstay = self.stored.mainstay(benign.labels)
        terms |= hashing_terms(benign, attacked, generated, self.objective, mainstay, s)
        if s.guidance:
            blank = batch.labels.new_zeros(len(batch.items), s.width)
            guided = guidance_term(attacked, work.views, self._read(work), blank, state)
            terms["guidance"] = s.guidance * guided
        return terms | self.extras.terms(batch, state, benign, attacked, self.objective)

    def _encode(
        self, hasher: CrossModalHasher, batch: Batch, adversaries: Adversaries, state: StepState
    ) -> tuple[Codes, Codes]:
        """Benign and attacked codes, in one pass or in two."""
        if self.settings.together:
            return encode_together(hasher, batch, adversaries, state)
        attacked = encode_attacked(hasher, batch, adversaries, state)
        return encode(hasher, batch, state), attacked

    def _hardness(
        self, hasher: CrossModalHasher, batch: Batch, work: Work, state: StepState
    ) -> Callable[[], Tensor]:
        """What weight perturbation raises, as in SAAT."""

        def loss() -> Tensor:
            attacked = encode_attacked(hasher, batch, work.adversaries, state)
            return mainstay_distance(attacked, self.stored.mainstay(attacked.labels))

        return loss


def _across(work: Work, readings: Mapping[str, Reading], side: str, width: int) -> Tensor:
    """z_r (r, width) of the other modality of a view's items, NaN where there is none."""
    view = work.views[side]
    other = next(each for each in SIDES if each != side)
    whole = torch.full((len(work.items), width), float("nan"), device=view.x.device)
    if other in work.views:
        whole = whole.index_copy(0, work.views[other].rows, readings[other].robust)
    return whole[view.rows]


def _added(prefix: str, parts: list[dict[str, Tensor]], trained: nn.Module) -> dict[str, Tensor]:
    """Sums of terms by name over modalities; when no modality has enough rows, one term that is 0."""
    terms: dict[str, Tensor] = {}
    for part in parts:
        for name, value in part.items():
            key = f"{prefix}.{name}"
            terms[key] = terms[key] + value if key in terms else value
    if not terms:
        terms[f"{prefix}.nothing"] = next(trained.parameters()).sum() * 0.0
    return terms
