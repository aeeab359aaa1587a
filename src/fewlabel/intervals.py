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


# 97.5 % quantiles of Student's t for 1 to 10 degrees of freedom.
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def seed_interval(values: Sequence[float] | NDArray[np.floating]) -> tuple[float, float, float]:
    """Mean of the results of two or more seeds with Student's t interval about it: (mean, low, high).

    Beyond eleven seeds the quantile stays that of eleven: a little too wide.
    """
    array = np.asarray(values, dtype=np.float64)
    mean, t = float(array.mean()), STUDENT_T[min(len(array) - 1, len(STUDENT_T)) - 1]
    half = t * float(array.std(ddof=1)) / math.sqrt(len(array))
    return mean, max(mean - half, 0.0), min(mean + half, 1.0)
