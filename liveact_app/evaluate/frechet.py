"""Fréchet distance of two sets of features, from sums: memory does not depend on how many there are.

Heusel et al., "GANs trained by a two time-scale update rule" (2017), for pictures (FID); Unterthiner et al., "Towards
accurate generative models of video" (2018), for clips (FVD). The formula is that of Dowson and Landau (1982).
"""

from __future__ import annotations

import numpy as np


class Gaussian:
    """Mean and covariance of feature vectors, taken batch by batch in float64.

    Attributes:
        size: of a vector.
        count: vectors taken.
    """

    def __init__(self, size: int):
        self.size, self.count = size, 0
        self._sum, self._products = np.zeros(size), np.zeros((size, size))
        self._origin: np.ndarray | None = None

    def add(self, features: np.ndarray) -> None:
        """Take vectors [n, size]."""
        x = np.asarray(features, np.float64)
        if self._origin is None and len(x):
            self._origin = x.mean(0)  # sums about a point near the mean lose no digits
        if len(x):
            x = x - self._origin
            self.count += len(x)
            self._sum += x.sum(0)
            self._products += x.T @ x

    def merge(self, other: Gaussian) -> None:
        """Take all that another has taken."""
        if other._origin is None:
            return
        if self._origin is None:
            self._origin = other._origin
        move, n = other._origin - self._origin, other.count
        cross = np.outer(other._sum, move)
        self._products += other._products + cross + cross.T + n * np.outer(move, move)
        self._sum += other._sum + n * move
        self.count += n

    @property
    def mean(self) -> np.ndarray:
        """Mean [size]; at least one vector."""
        return self._origin + self._sum / self.count

    @property
    def covariance(self) -> np.ndarray:
        """Covariance [size, size], over count - 1; at least two vectors."""
        return (self._products - np.outer(self._sum, self._sum) / self.count) / (self.count - 1)


def frechet_distance(a: Gaussian, b: Gaussian) -> float | None:
    """|ma - mb|^2 + tr(Ca + Cb - 2 (Ca Cb)^(1/2)); None with less than two vectors in one of them.

    tr (Ca Cb)^(1/2) is the sum of the square roots of the eigenvalues of Ca^(1/2) Cb Ca^(1/2), which is symmetric and
    without negative eigenvalues but for rounding: no square root of a general matrix is needed, and none becomes
    complex.
    """
    if min(a.count, b.count) < 2:
        return None
    ca, cb = a.covariance, b.covariance
    values, vectors = np.linalg.eigh(ca)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cb @ root), 0, None)).sum()
    return float(np.square(a.mean - b.mean).sum() + np.trace(ca) + np.trace(cb) - 2 * cross)
