"""95 % intervals, as ``(mean, low, high)``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Z = 1.96
# 97.5 % quantiles of Student's t for 1 to 10 degrees of freedom.
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

Values = Sequence[float] | NDArray[np.floating]
Interval = tuple[float, float, float]


def mean_interval(accuracies: Values) -> Interval:
    """Mean of per-episode accuracies with 1.96 s/√n about it, s the sample standard deviation, within 0 and 1."""
    return _within_0_and_1(difference_interval(accuracies))


def difference_interval(differences: Values) -> Interval:
    """Mean of differences with 1.96 s/√n about it."""
    return _interval(differences, Z)


def seed_interval(accuracies: Values) -> Interval:
    """Mean of the results of several seeds with Student's t interval about it, within 0 and 1.

    Beyond eleven seeds the quantile stays that of eleven: a little too wide.
    """
    t = STUDENT_T[min(len(accuracies) - 1, len(STUDENT_T)) - 1]
    return _within_0_and_1(_interval(accuracies, t))


def wilson(correct: int, n: int) -> Interval:
    """Fraction `correct` of `n` independent images with Wilson's score interval."""
    p = correct / n
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return _within_0_and_1((p, centre - half, centre + half))


def _interval(values: Values, quantile: float) -> Interval:
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    half = quantile * float(array.std(ddof=1)) / math.sqrt(len(array)) if len(array) > 1 else 0.0
    return mean, mean - half, mean + half


def _within_0_and_1(interval: Interval) -> Interval:
    mean, low, high = interval
    return mean, max(low, 0.0), min(high, 1.0)
