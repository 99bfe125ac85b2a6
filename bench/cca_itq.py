"""The classical baseline: canonical correlation analysis followed by iterative quantisation (CCA-ITQ).

Source: Gong, Lazebnik, Gordo, Perronnin, "Iterative Quantization", IEEE TPAMI 35(12), 2013. CCA finds
the directions in which the two views agree most (Hotelling 1936; here with ridge regularisation), ITQ
the rotation that brings the projected training data nearest to the corners of the cube. It sees pairs
only, no labels, and neither view's features are trained: what a learned hasher adds is the difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CcaItq:
    """Projections of both views into one space of `bits` dimensions, the rotation included."""

    image_mean: Array
    text_mean: Array
    image_projection: Array
    text_projection: Array

    @classmethod
    def fit(cls, images: Array, texts: Array, bits: int, *, ridge: float, rng: np.random.Generator) -> CcaItq:
        """Learn from n pairs: `images` (n, d_i), `texts` (n, d_t); ridge is relative to the mean variance."""
        image_mean, text_mean = images.mean(0), texts.mean(0)
        x, y = images - image_mean, texts - text_mean
        white_x, white_y = _whitening(x, ridge), _whitening(y, ridge)
        left, strength, right = np.linalg.svd(white_x.T @ (x.T @ y / len(x)) @ white_y, full_matrices=False)
        if len(strength) < bits:
            raise ValueError(f"wanted features of at least {bits} dimensions, got {len(strength)}")
        # Directions weighed by their correlation, as Gong et al. section 5 does with CCA.
        project_x = white_x @ left[:, :bits] * strength[:bits]
        project_y = white_y @ right[:bits].T * strength[:bits]
        rotation = _rotation(np.vstack([x @ project_x, y @ project_y]), rng)
        return cls(image_mean, text_mean, project_x @ rotation, project_y @ rotation)

    def image_codes(self, images: Array) -> NDArray[np.bool_]:
        """(n, d_i) features to (n, bits) codes."""
        codes: NDArray[np.bool_] = (images - self.image_mean) @ self.image_projection >= 0
        return codes

    def text_codes(self, texts: Array) -> NDArray[np.bool_]:
        """(n, d_t) features to (n, bits) codes."""
        codes: NDArray[np.bool_] = (texts - self.text_mean) @ self.text_projection >= 0
        return codes


def _whitening(x: Array, ridge: float) -> Array:
    """(d, d) matrix W with W.T (cov + ridge) W = I, for centred x (n, d)."""
    covariance = x.T @ x / len(x)
    covariance += ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors / np.sqrt(values))


def _rotation(projected: Array, rng: np.random.Generator, rounds: int = 50) -> Array:
    """ITQ: alternate B = sign(VR) and the orthogonal R nearest to it (procrustes), from a random start."""
    rotation, _ = np.linalg.qr(rng.standard_normal((projected.shape[1], projected.shape[1])))
    for _ in range(rounds):
        corners = np.where(projected @ rotation >= 0, 1.0, -1.0)
        left, _, right = np.linalg.svd(projected.T @ corners)
        rotation = left @ right
    return np.asarray(rotation)
