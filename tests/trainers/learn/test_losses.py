"""Losses and running moments against loops in NumPy."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from trainers.learn.losses import (
    clipped_policy_loss,
    explained_variance,
    masked_mean,
    masked_standardize,
    value_loss,
)
from trainers.learn.normalize import init_moments, standardize, unstandardize, update_moments

RNG = np.random.default_rng(0)
STEPS, LANES, CLIP = 7, 5, 0.2
LOG_PROB, OLD, ADVANTAGE, VALUE, TARGET = RNG.normal(0, 0.3, (5, STEPS, LANES)).astype(np.float32)
MASK = RNG.random((STEPS, LANES)) < 0.7
THERE = [(t, lane) for t in range(STEPS) for lane in range(LANES) if MASK[t, lane]]


def test_the_clipped_loss_is_a_mean_over_samples() -> None:
    loss = kl = clipped = 0.0
    for at in THERE:
        log_ratio = float(LOG_PROB[at]) - float(OLD[at])
        ratio = math.exp(log_ratio)
        loss -= min(ratio * ADVANTAGE[at], min(max(ratio, 1 - CLIP), 1 + CLIP) * ADVANTAGE[at])
        kl += ratio - 1 - log_ratio
        clipped += abs(ratio - 1) > CLIP
    found, metrics = clipped_policy_loss(LOG_PROB, OLD, ADVANTAGE, MASK, CLIP)
    assert float(found) == pytest.approx(loss / len(THERE), abs=1e-6)
    assert float(metrics["approx_kl"]) == pytest.approx(kl / len(THERE), abs=1e-6)
    assert float(metrics["clip_fraction"]) == pytest.approx(clipped / len(THERE), abs=1e-6)
    assert 0.2 < clipped / len(THERE) < 0.8


def test_the_loss_of_values_and_what_they_explain() -> None:
    errors = [float(VALUE[at]) - float(TARGET[at]) for at in THERE]
    assert float(value_loss(VALUE, TARGET, MASK)) == pytest.approx(0.5 * sum(x * x for x in errors) / len(errors))
    expected = 1 - np.var(errors) / np.var([TARGET[at] for at in THERE])
    assert float(explained_variance(VALUE, TARGET, MASK)) == pytest.approx(expected, abs=1e-5)


def test_advantages_are_standardised_over_what_the_mask_leaves() -> None:
    some = np.array([ADVANTAGE[at] for at in THERE])
    found = np.asarray(masked_standardize(ADVANTAGE, MASK))
    np.testing.assert_allclose([found[at] for at in THERE], (some - some.mean()) / some.std(), atol=1e-5)
    assert np.all(found[~MASK] == 0)


def test_a_mean_of_nothing_is_0() -> None:
    assert float(masked_mean(ADVANTAGE, np.zeros_like(MASK))) == 0


def test_running_moments_are_those_of_all_that_was_seen() -> None:
    moments, seen = init_moments(1), []
    for shift in (0.0, 3.0, -1.0):
        moments = update_moments(moments, jnp.asarray(TARGET + shift)[..., None], jnp.asarray(MASK))
        seen += [float(TARGET[at]) + shift for at in THERE]
    assert float(moments.mean[0]) == pytest.approx(np.mean(seen), abs=1e-4)
    assert float(moments.variance[0]) == pytest.approx(np.var(seen), abs=1e-3)
    scaled = standardize(moments, jnp.float32(seen))
    assert float(scaled.mean()) == pytest.approx(0, abs=1e-4)
    assert float(scaled.std()) == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(unstandardize(moments, scaled), seen, atol=1e-5)
    assert unstandardize(None, scaled) is standardize(None, scaled) is scaled
