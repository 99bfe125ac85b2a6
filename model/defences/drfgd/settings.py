"""The ``[defence]`` table of DRFGD: a weight for each term, and how much is generated how often.

0 switches exactly one part off, its compute included; everything else draws the same numbers as before, so
an ablation is one key. Budgets and inner steps are in ``[defence.inner]``, the switches that every defence
has in ``[defence.extras]``.
"""

from dataclasses import dataclass, field
from typing import Any

from model.defences.extras import ExtrasSettings
from model.defences.inner import InnerSettings
from model.errors import RecipeError
from model.hashers.options import option, read_options

AIMS = ("nearest", "foreign")


@dataclass(frozen=True)
class DrfgdSettings:
    """See the module; letters are those of docs/method.md: (a) encoders, (b) generator, (c) hashers."""

    width: int = option(64, low=8, high=1024)
    """Size of z_r and z_v."""
    image_channels: int = option(16, low=4, high=256)
    """First channels of the images' encoder and generator; a multiple of 4."""
    text_channels: int = option(64, low=4, high=1024)
    """Channels of the texts' encoder and generator."""

    encoder_every: int = option(1, low=1, high=1000)
    """Steps between two of (a)."""
    robust: float = option(1.0, low=0.0, high=1e4)
    """(a) z_r predicts y, of benign and of attacked inputs."""
    vulnerable: float = option(1.0, low=0.0, high=1e4)
    """(a) z_v predicts y of benign inputs, of attacked ones what the attack made of them."""
    attacked_labels: str = "nearest"
    """What that is: the ``nearest`` label set to the attacked code, or the nearest ``foreign`` one, which
    shares no label with the item."""
    consistency: float = option(0.2, low=0.0, high=1e4)
    """(a) KL between the predictions from z_r of benign and attacked inputs."""
    separation: float = option(0.1, low=0.0, high=1e4)
    """(a) Dependence of z_r and z_v beyond the labels."""
    invariance: float = option(0.1, low=0.0, high=1e4)
    """(a) Dependence of z_r and the pooled perturbation."""
    contrast: float = option(3.0, low=0.0, high=1e4)
    """(a) The branches disagree more on an attacked input than on the benign one."""
    correlation: float = option(0.2, low=0.0, high=1e4)
    """(a) Dependence of z_r and the centre codes, to be high."""

    generator_every: int = option(2, low=1, high=1000)
    """Steps between two of (b)."""
    share: float = option(0.5, low=0.0, high=1.0)
    """Share of a batch's items for which something is generated."""
    reach: float = option(0.3, low=0.0, high=4.0)
    """Largest change by the generator: in [0, 1] pixels, for texts in units of the embeddings' RMS."""
    from_attacked: float = option(0.5, low=0.0, high=1.0)
    """Share of generated items that are made from the attacked input, the rest from the benign one."""
    recombined: float = option(0.75, low=0.0, high=1.0)
    """Share of generated items that get the z_v of another item under attack."""
    cross_guided: float = option(0.25, low=0.0, high=1.0)
    """Share of generated items that are guided by z_r of the item's other modality."""
    reconstruction: float = option(1.0, low=0.0, high=1e4)
    """(b) Distance to the benign input in units of ``reach``."""
    alignment: float = option(1.0, low=0.0, high=1e4)
    """(b) Code of what is generated near the item's centre code."""
    alignment_across: float = option(0.5, low=0.0, high=1e4)
    """(b) The same towards the stored code of the item's other modality."""
    alignment_floor: float = option(0.5, low=-1.0, high=1.0)
    """Cosine from which on a code is near enough."""
    hardness: float = option(0.2, low=0.0, high=1e4)
    """(b) Cosine to the centre code, to be low: examples as hard as the alignment allows."""
    keeping: float = option(0.5, low=0.0, high=1e4)
    """(b) z_r of what is generated stays the z_r it was guided by."""
    recombination: float = option(0.5, low=0.0, high=1e4)
    """(b) z_v of what is generated becomes the z_v that was put in."""
    realism: float = option(0.1, low=0.0, high=1e4)
    """(b) The discriminator takes it for real."""
    resilience: float = option(0.2, low=0.0, high=1e4)
    """(b) The code moves little when the item's own perturbation is added."""

    adversarial: float = option(0.5, low=0.0, high=1e4)
    """(c) Hash loss of attacked images and texts."""
    generated: float = option(0.5, low=0.0, high=1e4)
    """(c) Hash loss of generated images and texts; 0 also ends (b), which then serves nothing."""
    perturbed: float = option(0.5, low=0.0, high=1.0)
    """(c) Share of generated items that carry their item's perturbation when the hashers see them."""
    centre: float = option(5.0, low=0.0, high=1e4)
    """(c) Attacked and generated codes towards the centre code (SAAT's outer term)."""
    agreement: float = option(0.1, low=0.0, high=1e4)
    """(c) Attacked and generated codes near the benign one of the same item."""
    cross: float = option(0.5, low=0.0, high=1e4)
    """(c) Attacked images against benign texts, and the reverse."""
    guidance: float = option(0.1, low=0.0, high=1e4)
    """(c) Dependence of attacked codes and z_r, to be high."""

    together: bool = False
    """Whether benign and attacked inputs pass a tower as one batch, with the same batch statistics."""
    inner: dict[str, Any] = field(default_factory=dict)
    """``[defence.inner]``, see `InnerSettings`."""
    extras: dict[str, Any] = field(default_factory=dict)
    """``[defence.extras]``, see `ExtrasSettings`."""

    def __post_init__(self) -> None:
        if self.attacked_labels not in AIMS:
            raise RecipeError(
                f"defence.attacked_labels: wanted one of {', '.join(AIMS)}, got {self.attacked_labels!r}"
            )
        if self.image_channels % 4:
            raise RecipeError(f"defence.image_channels: wanted a multiple of 4, got {self.image_channels}")
        self.inner_settings()
        self.extras_settings()

    def inner_settings(self) -> InnerSettings:
        """The inner table; raises RecipeError."""
        return read_options(InnerSettings, self.inner, "defence.inner")

    def extras_settings(self) -> ExtrasSettings:
        """The extras table; raises RecipeError."""
        return read_options(ExtrasSettings, self.extras, "defence.extras")

    @property
    def encodes(self) -> bool:
        """Whether any term of (a) is on."""
        terms = (self.robust, self.vulnerable, self.consistency, self.contrast)
        return any((*terms, self.separation, self.invariance, self.correlation))

    @property
    def trains_generator(self) -> bool:
        """Whether any term of (b) is on."""
        near = (self.alignment, self.alignment_across, self.hardness, self.reconstruction)
        return any((*near, self.keeping, self.recombination, self.realism, self.resilience))

    @property
    def generates(self) -> bool:
        """Whether the hashers see anything that was generated."""
        return self.share > 0 and (self.generated > 0 or self.centre > 0 or self.agreement > 0)
