"""Dual-branch semantic encoders: what of an input is robust (z_r) and what an attack can use (z_v).

Trained by the defence DRFGD beside the hasher (model/defences/drfgd), and afterwards the attack score's
eyes (model/attack_score.py). They stand apart from both so that serving loads no training code. The retrieval
model does not know them: codes are the same with and without.

Both encoders are light on purpose: they read the raw input (images in [0, 1], embeddings in units of the
table's root mean square) through a few strided convolutions, about a tenth of the small CNN's work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

GROUPS = 4


@dataclass(frozen=True)
class BranchSizes:
    """What rebuilds the encoders and their classifier.

    width: size of z_r and z_v. labels: C. image, text: first channels of each side's encoder, 0 for none.
    embedding: D of the text tower's embeddings, 0 without texts.
    """

    width: int
    labels: int
    image: int
    text: int
    embedding: int


class Branch(nn.Module):
    """The end of one branch: mean and maximum of its own maps, a linear map, layer norm."""

    def __init__(self, maps: nn.Module, channels: int, width: int) -> None:
        super().__init__()
        self.maps = maps
        self.out = nn.Sequential(nn.Linear(2 * channels, width), nn.LayerNorm(width))


class ImageBranches(nn.Module):
    """Images (n, 3, S, S) in [0, 1] -> z_r, z_v, each (n, width); two strided layers are shared."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_step(3, channels), _step(channels, 2 * channels))
        self.robust, self.vulnerable = (
            Branch(_step(2 * channels, 3 * channels), 3 * channels, width) for _ in range(2)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`mask` is there for the text side's sake and ignored."""
        shared = self.stem(4 * x - 2)  # about unit deviation
        robust, vulnerable = (self._end(branch, shared) for branch in (self.robust, self.vulnerable))
        return robust, vulnerable

    @staticmethod
    def _end(branch: Branch, shared: Tensor) -> Tensor:
        maps = branch.maps(shared)
        z: Tensor = branch.out(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1))
        return z


class TextBranches(nn.Module):
    """Embeddings (n, L, D) in units of the table's RMS, mask bool (n, L) -> z_r, z_v, each (n, width).

    Padding is zeroed before every convolution, so a row does not depend on how far its batch was padded.
    """

    def __init__(self, embedding: int, channels: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv1d(embedding, channels, 3, padding="same")
        self.robust, self.vulnerable = (
            Branch(nn.Conv1d(channels, channels, 3, padding="same"), channels, width) for _ in range(2)
        )

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        keep = mask.unsqueeze(1).to(x.dtype)  # (n, 1, L)
        shared = torch.relu(self.stem(x.transpose(1, 2) * keep)) * keep
        robust, vulnerable = (self._end(branch, shared, keep) for branch in (self.robust, self.vulnerable))
        return robust, vulnerable

    @staticmethod
    def _end(branch: Branch, shared: Tensor, keep: Tensor) -> Tensor:
        maps = torch.relu(branch.maps(shared)) * keep
        mean = maps.sum(2) / keep.sum(2).clamp(min=1)
        z: Tensor = branch.out(torch.cat([mean, maps.amax(2)], dim=1))
        return z


class SemanticEncoders(nn.Module):
    """The encoders of the sides a model has, and the one label classifier that reads all branches."""

    def __init__(self, sizes: BranchSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.image = ImageBranches(sizes.image, sizes.width) if sizes.image else None
        self.text = TextBranches(sizes.embedding, sizes.text, sizes.width) if sizes.text else None
        self.classifier = nn.Linear(sizes.width, sizes.labels)

    @torch.no_grad()
    def start_from(self, prior: Tensor) -> None:
        """Let the fresh classifier say how often each label occurs, prior (C,) in [0, 1], whatever it sees.

        From a bias of 0 most of a run goes by until rare labels are denied, and the branches learn to give
        a constant that denies them sooner: on 114 labels neither had learnt anything else after 120 steps.
        """
        share = prior.float().clamp(1e-4, 0.99)
        self.classifier.bias.copy_(torch.log(share / (1 - share)))

    def side(self, name: str) -> ImageBranches | TextBranches:
        """The encoder of "image" or "text"; raises KeyError when the model has no such side."""
        found = {"image": self.image, "text": self.text}[name]
        if found is None:
            raise KeyError(name)
        return found

    def branches(self, side: str, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z_r and z_v (n, width) of inputs of one side, texts with their mask."""
        z: tuple[Tensor, Tensor] = self.side(side)(x, mask)
        return z

    def score(self, side: str, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attack score (n,) >= 0 of inputs of one side: the branches' `disagreement`. Differentiable."""
        robust, vulnerable = self.branches(side, x, mask)
        return disagreement(self.classifier(robust), self.classifier(vulnerable))


def disagreement(robust: Tensor, vulnerable: Tensor) -> Tensor:
    """Jeffreys divergence (n,) of two sets of label logits (n, C): sum over labels of (p - q)(a - b).

    That is KL(p || q) + KL(q || p) of independent Bernoulli labels with logits a and b: 0 when the branches
    say the same, large when one is sure of what the other denies.
    """
    return ((torch.sigmoid(robust) - torch.sigmoid(vulnerable)) * (robust - vulnerable)).sum(1)


def _step(inner: int, outer: int) -> nn.Module:
    """3x3 convolution of stride 2, group norm (a row's code must not depend on its batch), ReLU."""
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, stride=2, padding=1, bias=False),
        nn.GroupNorm(GROUPS, outer),
        nn.ReLU(),
    )
