"""Part (c): the terms that train the hashers on benign, attacked and generated inputs of both modalities."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from model.defences.base import Batch, StepState
from model.defences.drfgd.generation import Made, Reading
from model.defences.drfgd.settings import DrfgdSettings
from model.defences.drfgd.views import View
from model.defences.encoding import encode_attacked
from model.defences.extras import difference
from model.defences.inner import Adversaries
from model.defences.saat import mainstay_distance
from model.hashers.base import CrossModalHasher
from model.losses.independence import dependence
from model.losses.objective import Codes, HashObjective
from model.losses.similarity import shared_label


def encode_generated(
    hasher: CrossModalHasher,
    batch: Batch,
    made: Mapping[str, Made],
    perturbed: Mapping[str, Tensor],
    state: StepState,
) -> Codes:
    """Codes of the global batch where something was generated, masked elsewhere; with gradients.

    perturbed: per side bool (count,), which generated rows carry their item's own perturbation.
    """
    blank = torch.zeros_like(batch.has_image)
    has = {"image": blank, "text": blank}
    images, (embeddings, mask) = batch.images, _embedded(hasher, batch)
    for side, each in made.items():
        has[side] = blank.index_fill(0, each.view.rows, 1.0)
        chosen = perturbed[side].view(-1, *[1] * (each.x.dim() - 1))
        x = torch.where(chosen, each.perturbed(), each.x) * each.view.unit
        if side == "image":
            images = images.index_copy(0, each.view.rows, x)
        else:
            embeddings = embeddings.index_copy(0, each.view.rows, x)
    part = replace(batch, has_image=has["image"], has_text=has["text"])
    return encode_attacked(hasher, part, Adversaries(images, embeddings, mask), state)


def _embedded(hasher: CrossModalHasher, batch: Batch) -> tuple[Tensor, Tensor]:
    """Benign embeddings and their mask, or empty ones without a text tower."""
    if hasher.text is None:
        blank = batch.labels.new_zeros(len(batch.items), 1)
        return blank.unsqueeze(2)[:, :, :0], blank > 0
    with torch.no_grad():
        return hasher.text.embed(batch.tokens), hasher.text.mask(batch.tokens)


def hashing_terms(
    benign: Codes,
    attacked: Codes,
    generated: Codes | None,
    objective: HashObjective,
    mainstay: Tensor,
    settings: DrfgdSettings,
) -> dict[str, Tensor]:
    """Weighted terms beyond the benign hash loss; mainstay (n, K) are centre codes of `benign.labels`."""
    s = settings
    others = [attacked] if generated is None else [attacked, generated]
    terms = {}
    if s.adversarial:
        terms["adversarial"] = s.adversarial * total(objective(attacked))
    if s.generated and generated is not None:
        terms["generated"] = s.generated * total(objective(generated))
    if s.centre:
        parts = [mainstay_distance(codes, mainstay) for codes in others]
        terms["centre"] = s.centre * torch.stack(parts).mean()
    if s.agreement:
        parts = [difference(codes, benign) for codes in others]
        terms["agreement"] = s.agreement * torch.stack(parts).mean()
    if s.cross:
        terms["cross"] = s.cross * across(benign, attacked, objective)
    return terms


def across(benign: Codes, attacked: Codes, objective: HashObjective) -> Tensor:
    """Pairwise likelihood of attacked images with benign texts and of attacked texts with benign images."""
    relevant = shared_label(benign.labels)
    counted = benign.has_image[:, None] * benign.has_text[None, :]
    first = objective.pair(attacked.image, benign.text, relevant, counted)
    second = objective.pair(attacked.text, benign.image, relevant, counted.T)
    both: Tensor = 0.5 * (first + second)
    return both


def guidance_term(
    attacked: Codes,
    views: Mapping[str, View],
    readings: Mapping[str, Reading],
    blank: Tensor,
    state: StepState,
) -> Tensor:
    """1 - dependence of attacked codes and z_r of the same items, mean over modalities.

    blank: (n, width) of zeros, for this process's n items. Every side is gathered whether this process has
    rows of it or not, because others may wait. z_r was read without a graph: the code follows it.
    """
    parts = []
    sides = {"image": (attacked.image, attacked.has_image), "text": (attacked.text, attacked.has_text)}
    for side, (codes, has) in sides.items():
        whole = blank
        if side in views:
            whole = blank.index_copy(0, views[side].rows, readings[side].robust)
        whole, there = state.gather(whole), has > 0
        if bool(there.any()):
            parts.append(1 - dependence(codes[there], whole[there]))
    return torch.stack(parts).mean() if parts else attacked.image.sum() * 0.0


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of an objective's terms."""
    return torch.stack(list(terms.values())).sum()
