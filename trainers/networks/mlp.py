"""Networks as flax modules, and the diagonal Gaussian they parametrise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu, "elu": nn.elu, "silu": nn.silu}


class MLP(nn.Module):
    """Hidden layers with orthogonal weights and a linear head (Andrychowicz et al. 2021, section 3.2)."""

    hidden_sizes: Sequence[int]
    out_size: int
    out_scale: float
    activation: str = "tanh"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (..., in) to (..., out_size)."""
        for size in self.hidden_sizes:
            x = ACTIVATIONS[self.activation](nn.Dense(size, kernel_init=nn.initializers.orthogonal(math.sqrt(2)))(x))
        return nn.Dense(self.out_size, kernel_init=nn.initializers.orthogonal(self.out_scale))(x)


class GaussianActor(nn.Module):
    """The mean of an action, and a log standard deviation that is the same for all observations."""

    hidden_sizes: Sequence[int]
    action_dim: int
    initial_log_std: float = 0.0
    activation: str = "tanh"

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map obs (..., D) to mean (..., A) and log_std (A,)."""
        mean = MLP(self.hidden_sizes, self.action_dim, 0.01, self.activation)(obs)
        return mean, self.param(
            "log_std", nn.initializers.constant(self.initial_log_std), (self.action_dim,), jnp.float32
        )


class Critic(nn.Module):
    """The value of an observation."""

    hidden_sizes: Sequence[int]
    activation: str = "tanh"

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Map obs (..., D) to value (...,)."""
        return MLP(self.hidden_sizes, 1, 1.0, self.activation)(obs)[..., 0]


def gaussian_log_prob(action: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Return log probabilities (...,) of actions. action, mean: (..., A). log_std: (A,)."""
    z = (action - mean) * jnp.exp(-log_std)
    return -0.5 * jnp.sum(jnp.square(z), axis=-1) - jnp.sum(log_std) - 0.5 * math.log(2 * math.pi) * action.shape[-1]


def gaussian_entropy(log_std: jax.Array) -> jax.Array:
    """Return the entropy, (), in nats. log_std: (A,)."""
    return jnp.sum(log_std + 0.5 * math.log(2 * math.pi * math.e))
