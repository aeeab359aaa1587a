"""95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Z = 1.96


def mean_interval(values: Sequence[float] | NDArray[np.floating]) -> tuple[float, float, float]:
    """Mean of per-episode accuracies with 1.96 s/√n about it, s the sample standard deviation: (mean, low, high)."""
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    half = Z * float(array.std(ddof=1)) / math.sqrt(len(array)) if len(array) > 1 else 0.0
    return mean, max(mean - half, 0.0), min(mean + half, 1.0)


def wilson(correct: int, n: int) -> tuple[float, float, float]:
    """Fraction `correct` of `n` independent images with Wilson's score interval: (fraction, low, high)."""
    p = correct / n
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return p, max(centre - half, 0.0), min(centre + half, 1.0)
