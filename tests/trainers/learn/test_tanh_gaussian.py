"""The hyperbolic tangent of a Gaussian against SciPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from trainers.learn.distributions import Gaussian, TanhGaussian

ACTIONS = TanhGaussian(2)
MEAN, LOG_STD = np.array([[0.3, -1.2], [2.0, 0.0]]), np.array([[-0.7, 0.2], [-1.5, -0.3]])
DESCRIBED = jnp.float32(MEAN), jnp.float32(LOG_STD)


def density(action: float, mean: float, log_std: float) -> float:
    return scipy.stats.norm.pdf(np.arctanh(action), mean, np.exp(log_std)) / (1 - action**2)


def test_probabilities_are_those_of_the_executed_actions() -> None:
    numbers = np.array([[0.5, -2.0], [1.0, 0.1]])
    executed = np.asarray(ACTIONS.executed(jnp.float32(numbers)), np.float64)
    expected = [np.log([density(*each) for each in zip(*row, strict=True)]).sum()
                for row in zip(executed, MEAN, LOG_STD, strict=True)]  # fmt: skip
    np.testing.assert_allclose(ACTIONS.log_prob(jnp.float32(numbers), DESCRIBED), expected, atol=1e-4)
    assert scipy.integrate.quad(density, -1, 1, (0.3, -0.7))[0] == pytest.approx(1, abs=1e-6)


def test_probabilities_and_gradients_are_finite_far_out() -> None:
    far = jnp.array([[60.0, -60.0]])

    def total(mean: jax.Array) -> jax.Array:
        return jnp.sum(ACTIONS.log_prob(far, (mean, jnp.zeros(2))))

    value, slope = jax.value_and_grad(total)(far + 1)
    assert np.isfinite(value)
    assert np.all(np.isfinite(slope))
    assert np.all(np.abs(ACTIONS.executed(far)) <= 1)


def test_the_entropy_is_that_of_the_integral() -> None:
    def entropy(mean: float, log_std: float) -> float:
        values = mean + np.exp(log_std) * np.linspace(-10, 10, 20001)
        weight = scipy.stats.norm.pdf(values, mean, np.exp(log_std))
        inner = np.log(weight) - np.log1p(-(np.tanh(values) ** 2) + 1e-300)
        return -float(scipy.integrate.trapezoid(weight * inner, values))

    expected = [sum(entropy(*each) for each in zip(*row, strict=True)) for row in zip(MEAN, LOG_STD, strict=True)]
    np.testing.assert_allclose(ACTIONS.entropy(DESCRIBED), expected, atol=0.02)


def test_a_deviation_for_each_observation_is_taken_row_by_row() -> None:
    plain, numbers = Gaussian(2), np.array([[0.5, -2.0], [1.0, 0.1]])
    expected = scipy.stats.norm.logpdf(numbers, MEAN, np.exp(LOG_STD)).sum(axis=1)
    np.testing.assert_allclose(plain.log_prob(jnp.float32(numbers), DESCRIBED), expected, atol=1e-5)
    expected = scipy.stats.norm.entropy(MEAN, np.exp(LOG_STD)).sum(axis=1)
    np.testing.assert_allclose(plain.entropy(DESCRIBED), expected, atol=1e-5)


def test_samples_have_the_distribution() -> None:
    described = jnp.broadcast_to(DESCRIBED[0][0], (20000, 2)), jnp.broadcast_to(DESCRIBED[1][0], (20000, 2))
    drawn = np.asarray(ACTIONS.executed(ACTIONS.sample(jax.random.key(0), described)), np.float64)
    for column in range(2):
        law = scipy.stats.norm(MEAN[0, column], np.exp(LOG_STD[0, column]))
        found = scipy.stats.kstest(drawn[:, column], lambda a, law=law: law.cdf(np.arctanh(a)))
        assert found.pvalue > 1e-3
