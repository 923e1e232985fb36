"""95 % confidence intervals of means over episodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

UPPER = 0.975  # the quantile that leaves 2.5 % beyond either end
PRIOR = 0.1  # episodes of 0, and as many of 1, that stand in for a spread not seen

Interval = dict[str, float | None]  # mean, low, high


def share_interval(shares: ArrayLike) -> Interval:
    """The mean of shares (E,) in [0, 1], one an episode; the interval has a width even where all are 0 or all are 1.

    Wilson's (1927), with the effective sample size of Korn & Graubard (1998, "Confidence intervals for proportions with
    small expected number of positive counts estimated from survey data"), that of a sample to which PRIOR episodes of 0
    and of 1 are added. If all shares are 0 or 1 it is E, and the interval Wilson's own. Simulated shares of 10 agents,
    correlated within an episode or not, of means from 0.5 to 0.999: it covers 94 % and more from E = 32 on.
    """
    values = np.asarray(shares, float)
    count, mean = len(values), values.mean()
    centre = (values.sum() + PRIOR) / (count + 2 * PRIOR)
    spread = np.square(values - centre).sum() + PRIOR * (centre**2 + (1 - centre) ** 2)
    effective = count * (count + 2 * PRIOR) * centre * (1 - centre) / spread
    z = stdtrit(np.inf, UPPER)
    middle = (mean + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z * np.sqrt(mean * (1 - mean) / effective + (z / (2 * effective)) ** 2) / (1 + z**2 / effective)
    low, high = np.clip(middle - half, 0.0, mean), np.clip(middle + half, mean, 1.0)
    return {"mean": float(mean), "low": float(low), "high": float(high)}


def mean_interval(values: ArrayLike, lowest: float = -np.inf, highest: float = np.inf) -> Interval:
    """The mean of values (E,), one an episode, with Student's interval; None for what too few values cannot tell."""
    sample = np.asarray(values, float)
    count = len(sample)
    if count < 2:
        return {"mean": float(sample[0]) if count else None, "low": None, "high": None}
    mean, half = sample.mean(), stdtrit(count - 1, UPPER) * sample.std(ddof=1) / np.sqrt(count)
    return {"mean": float(mean), "low": float(max(mean - half, lowest)), "high": float(min(mean + half, highest))}
