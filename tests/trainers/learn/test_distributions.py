"""Distributions of actions against their definitions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from trainers.learn.distributions import (
    Categorical,
    Distribution,
    Gaussian,
    MultiCategorical,
    action_shape,
    distribution_of,
)

LOGITS = jnp.array([[0.3, -1.0, 2.0, 0.5, 0.0], [0.0, 0.0, 1.0, -3.0, 1.0]])
JOINT = [jnp.array([first, second]) for first in range(2) for second in range(3)]


@pytest.mark.parametrize(
    ("actions", "all_of_them"),
    [(Categorical(5), [jnp.array(choice) for choice in range(5)]), (MultiCategorical((2, 3)), JOINT)],
)
def test_choices_have_the_probabilities_of_their_logits(actions: Distribution, all_of_them: list[jax.Array]) -> None:
    log_probs = np.stack([actions.log_prob(jnp.broadcast_to(a, (2, *a.shape)), LOGITS) for a in all_of_them], axis=-1)
    probs = np.exp(log_probs)
    np.testing.assert_allclose(probs.sum(axis=-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(actions.entropy(LOGITS), -(probs * log_probs).sum(axis=-1), atol=1e-6)
    best = [all_of_them[index] for index in probs.argmax(axis=-1)]
    np.testing.assert_array_equal(actions.mode(LOGITS), np.stack(best))
    drawn = jax.vmap(actions.sample, (0, None))(jax.random.split(jax.random.key(0), 20_000), LOGITS)
    assert drawn.dtype == jnp.int32
    for index, action in enumerate(all_of_them):
        equal = (drawn == action).reshape(*drawn.shape[:2], -1).all(axis=-1)
        np.testing.assert_allclose(equal.mean(axis=0), probs[:, index], atol=0.015)


def test_a_gaussian_is_a_product_of_normal_densities() -> None:
    mean, log_std = jnp.array([0.5, -1.0]), jnp.array([-0.7, 0.2])
    action, std = np.array([0.1, 0.4]), np.exp(log_std)
    density = np.exp(-0.5 * np.square((action - mean) / std)) / (std * np.sqrt(2 * np.pi))
    gaussian = Gaussian(2)
    assert float(gaussian.log_prob(jnp.asarray(action), (mean, log_std))) == pytest.approx(
        np.log(density).sum(), abs=1e-5
    )
    drawn = jax.vmap(gaussian.sample, (0, None))(jax.random.split(jax.random.key(0), 20_000), (mean, log_std))
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(drawn.std(axis=0), std, atol=0.03)


@pytest.mark.parametrize(
    ("space", "actions", "shape", "dtype"),
    [
        (spaces.Box(-2, 2, (3,)), Gaussian(3), (3,), "float32"),
        (spaces.Discrete(4), Categorical(4), (), "int32"),
        (spaces.MultiDiscrete([2, 3]), MultiCategorical((2, 3)), (2,), "int32"),
    ],
)
def test_a_space_is_served_by_its_distribution(space: Any, actions: Distribution, shape: tuple, dtype: str) -> None:
    assert distribution_of(space) == actions
    one = action_shape(actions)
    assert (one.shape, one.dtype.name) == (shape, dtype)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"a": spaces.Discrete(2)}), spaces.MultiBinary(3), spaces.Box(-1, 1, (2, 2)), spaces.Box(0, 9, (2,), int),
        spaces.Discrete(3, start=1), spaces.MultiDiscrete([[2, 3]]),
    ],
)  # fmt: skip
def test_a_space_that_nothing_serves_is_named_with_those_served(space: Any) -> None:
    with pytest.raises(ValueError) as caught:
        distribution_of(space)
    assert str(space) in str(caught.value)
    assert all(name in str(caught.value) for name in ("Discrete", "MultiDiscrete", "Box"))
