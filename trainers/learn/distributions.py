"""Distributions of actions as pure functions, and the one that serves an action space.

A network gives the numbers that describe a distribution: for a Gaussian a mean (..., A) and a log standard deviation (A,)
or (..., A), for choices one logit per alternative (..., L).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

QUADRATURE = 8  # points of the entropy of a `TanhGaussian`


class Distribution(Protocol):
    """How actions are drawn. Hashable, and without arrays of its own."""

    @property
    def outputs(self) -> int:
        """The number of values that the network gives for each observation."""

    @property
    def has_scale(self) -> bool:
        """Whether the network also gives a log standard deviation."""

    def sample(self, key: jax.Array, described: Any) -> jax.Array:
        """Draw actions."""

    def mode(self, described: Any) -> jax.Array:
        """Return the actions without noise: the likeliest choices, or what the mean gives."""

    def executed(self, action: jax.Array) -> jax.Array:
        """Return actions as an environment takes them."""

    def log_prob(self, action: jax.Array, described: Any) -> jax.Array:
        """Return the log probabilities (...,) of actions."""

    def entropy(self, described: Any) -> jax.Array:
        """Return the entropy in nats: (...,), or () if it is the same for all observations."""


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Actions (..., size) float32, each number drawn for itself. The environment clips them to [-1, 1]."""

    size: int
    has_scale = True

    @property
    def outputs(self) -> int:
        return self.size

    def sample(self, key: jax.Array, described: tuple[jax.Array, jax.Array]) -> jax.Array:
        mean, log_std = described
        return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, jnp.float32)

    def mode(self, described: tuple[jax.Array, jax.Array]) -> jax.Array:
        return described[0]

    def executed(self, action: jax.Array) -> jax.Array:
        return action

    def log_prob(self, action: jax.Array, described: tuple[jax.Array, jax.Array]) -> jax.Array:
        return gaussian_log_prob(action, *described)

    def entropy(self, described: tuple[jax.Array, jax.Array]) -> jax.Array:
        return gaussian_entropy(described[1])


@dataclasses.dataclass(frozen=True)
class TanhGaussian(Gaussian):
    """Actions in (-1, 1), the hyperbolic tangents of a Gaussian's numbers (Haarnoja et al. 2018, appendix C).

    Learners keep the numbers before the tangent, which lose nothing near -1 and 1. Probabilities are those of the actions.
    """

    def executed(self, action: jax.Array) -> jax.Array:
        return jnp.tanh(action)

    def log_prob(self, action: jax.Array, described: tuple[jax.Array, jax.Array]) -> jax.Array:
        return super().log_prob(action, described) - jnp.sum(log_tanh_slope(action), axis=-1)

    def entropy(self, described: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Estimate the entropy by Gauss-Hermite quadrature. It is within 0.01 nats a number for deviations up to 1."""
        mean, log_std = described
        points, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE)
        values = mean[..., None] + jnp.exp(log_std)[..., None] * jnp.asarray(points, jnp.float32)
        slopes = log_tanh_slope(values) @ jnp.asarray(weights / np.sum(weights), jnp.float32)
        return gaussian_entropy(log_std) + jnp.sum(slopes, axis=-1)


@dataclasses.dataclass(frozen=True)
class Categorical:
    """Actions (...,) int32, one of `count` alternatives."""

    count: int
    has_scale = False

    @property
    def outputs(self) -> int:
        return self.count

    def sample(self, key: jax.Array, described: jax.Array) -> jax.Array:
        return jax.random.categorical(key, described).astype(jnp.int32)

    def mode(self, described: jax.Array) -> jax.Array:
        return jnp.argmax(described, axis=-1).astype(jnp.int32)

    def executed(self, action: jax.Array) -> jax.Array:
        return action

    def log_prob(self, action: jax.Array, described: jax.Array) -> jax.Array:
        return categorical_log_prob(action, described)

    def entropy(self, described: jax.Array) -> jax.Array:
        return categorical_entropy(described)


@dataclasses.dataclass(frozen=True)
class MultiCategorical:
    """Actions (..., len(counts)) int32: several choices at once, each drawn for itself."""

    counts: tuple[int, ...]
    has_scale = False

    @property
    def outputs(self) -> int:
        return sum(self.counts)

    def sample(self, key: jax.Array, described: jax.Array) -> jax.Array:
        keys = jax.random.split(key, len(self.counts))
        draws = [jax.random.categorical(*each) for each in zip(keys, self._choices(described), strict=True)]
        return jnp.stack(draws, axis=-1).astype(jnp.int32)

    def mode(self, described: jax.Array) -> jax.Array:
        return jnp.stack([jnp.argmax(x, axis=-1) for x in self._choices(described)], axis=-1).astype(jnp.int32)

    def executed(self, action: jax.Array) -> jax.Array:
        return action

    def log_prob(self, action: jax.Array, described: jax.Array) -> jax.Array:
        choices = enumerate(self._choices(described))
        return sum((categorical_log_prob(action[..., i], x) for i, x in choices), jnp.float32(0))

    def entropy(self, described: jax.Array) -> jax.Array:
        return sum((categorical_entropy(x) for x in self._choices(described)), jnp.float32(0))

    def _choices(self, described: jax.Array) -> list[jax.Array]:
        return jnp.split(described, np.cumsum(self.counts)[:-1].tolist(), axis=-1)


GAUSSIANS = {"clipped": Gaussian, "tanh": TanhGaussian}


def distribution_of(space: Any, gaussian: str = "clipped") -> Distribution:
    """Return the distribution that serves an action space of Gymnasium or gymnax.

    gaussian: the name of that of floats, a key of GAUSSIANS. A `Box` must have one axis. Raises ValueError naming the space
    and the ones served.
    """
    kinds = {base.__name__ for base in type(space).__mro__}
    if "MultiDiscrete" in kinds and np.ndim(space.nvec) == 1 and not np.any(getattr(space, "start", 0)):
        return MultiCategorical(tuple(int(count) for count in space.nvec))
    if "Discrete" in kinds and getattr(space, "start", 0) == 0:
        return Categorical(int(space.n))
    if "Box" in kinds and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
        return GAUSSIANS[gaussian](int(space.shape[0]))
    raise ValueError(
        f"no distribution serves the action space {space}: it must be a Discrete or MultiDiscrete that starts at 0, or a "
        "Box of floats with one axis"
    )


def action_shape(actions: Distribution) -> jax.ShapeDtypeStruct:
    """Return shape and type of one action."""
    described = jax.ShapeDtypeStruct((actions.outputs,), jnp.float32)
    return jax.eval_shape(actions.mode, (described, described) if actions.has_scale else described)


def gaussian_log_prob(action: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Return log probabilities (...,) of actions. action, mean: (..., A). log_std: (A,) or (..., A)."""
    z = (action - mean) * jnp.exp(-log_std)
    return (
        -0.5 * jnp.sum(jnp.square(z), axis=-1)
        - jnp.sum(log_std, axis=-1)
        - 0.5 * math.log(2 * math.pi) * action.shape[-1]
    )


def gaussian_entropy(log_std: jax.Array) -> jax.Array:
    """Return the entropy, () or (...,), in nats. log_std: (A,) or (..., A)."""
    return jnp.sum(log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)


def log_tanh_slope(x: jax.Array) -> jax.Array:
    """Return the logarithm of the derivative of tanh at x, in a form that is stable for large x."""
    return 2 * (math.log(2) - x - jax.nn.softplus(-2 * x))


def categorical_log_prob(choice: jax.Array, logits: jax.Array) -> jax.Array:
    """Return log probabilities (...,) of choices (...,) int. logits: (..., L)."""
    chosen = jnp.take_along_axis(logits, choice[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def categorical_entropy(logits: jax.Array) -> jax.Array:
    """Return entropies (...,) in nats. logits: (..., L)."""
    log_probs = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
