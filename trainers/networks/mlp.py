"""Networks as flax modules: hidden layers, and the heads of an actor and a critic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

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
    dtype: Any = None  # to compute in; weights and results are float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map (..., in) to (..., out_size), and return the last hidden layer beside it."""
        dense = partial(nn.Dense, dtype=self.dtype)
        for size in self.hidden_sizes:
            x = ACTIVATIONS[self.activation](dense(size, kernel_init=nn.initializers.orthogonal(math.sqrt(2)))(x))
        out = dense(self.out_size, kernel_init=nn.initializers.orthogonal(self.out_scale))(x)
        return (out, x) if self.dtype is None else (out.astype(jnp.float32), x.astype(jnp.float32))


class Actor(nn.Module):
    """What describes the distribution of an action, see `trainers.learn.distributions`."""

    hidden_sizes: Sequence[int]
    outputs: int
    initial_log_std: float | None = None  # of actions that are numbers; None for choices
    activation: str = "tanh"
    dtype: Any = None

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[Any, jax.Array]:
        """Map obs (..., D) to outputs (..., A), and return the last hidden layer (..., H) beside them.

        With `initial_log_std` the outputs are a pair: (..., A), and log_std (A,), the same for all observations.
        """
        described, hidden = MLP(self.hidden_sizes, self.outputs, 0.01, self.activation, self.dtype)(obs)
        if self.initial_log_std is None:
            return described, hidden
        scale = nn.initializers.constant(self.initial_log_std)
        return (described, self.param("log_std", scale, (self.outputs,), jnp.float32)), hidden


class Critic(nn.Module):
    """The value of an observation, or of the hidden layer that it shares with an actor."""

    hidden_sizes: Sequence[int]
    activation: str = "tanh"
    dtype: Any = None

    @nn.compact
    def __call__(self, seen: jax.Array) -> jax.Array:
        """Map (..., D) to value (...,)."""
        return MLP(self.hidden_sizes, 1, 1.0, self.activation, self.dtype)(seen)[0][..., 0]
