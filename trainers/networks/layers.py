"""Layers between an observation and what a network says of it."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from trainers.networks.recurrent import CELLS, Memory
from trainers.networks.rows import on_rows

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu, "elu": nn.elu, "silu": nn.silu}
NETWORKS = ("mlp", *CELLS)


@dataclasses.dataclass(frozen=True)
class Body:
    """The description of layers: hidden ones, a cell that remembers, and hidden ones after it.

    Without a cell (`network="mlp"`) both kinds of hidden layers follow one another.
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    network: str = "mlp"
    cell_size: int = 64
    head_sizes: tuple[int, ...] = ()
    layer_norm: bool = False

    @property
    def remembers(self) -> bool:
        """Whether there is a cell."""
        return self.network != "mlp"

    def begin(self, lanes: tuple[int, ...]) -> Memory:
        """Return the memory of as many lanes at the beginning of an episode: zeros (*lanes, units), () without a cell."""
        return CELLS[self.network].begin((*lanes, self.cell_size)) if self.remembers else ()

    def forgetful(self) -> Body:
        """Return the same without a cell."""
        return dataclasses.replace(self, network="mlp")

    def head(self) -> Body:
        """Return what comes after the layers that an actor and a critic can share."""
        return dataclasses.replace(self, network="mlp", hidden_sizes=())


class Layers(nn.Module):
    """A body with orthogonal weights, and a linear head (Andrychowicz et al. 2021, section 3.2)."""

    body: Body
    out_size: int
    out_scale: float
    dtype: Any = None  # to compute in; weights and results are float32

    @nn.compact
    def __call__(
        self, x: jax.Array, memory: Memory = (), goes_on: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array, Memory]:
        """Map x (..., in) to (..., out_size). Returns it, the outputs of the head's last hidden layer and of the shared
        layers beside it, and the new memory.

        With goes_on (T, ...) bool: T steps, x (T, ..., in), see `trainers.networks.recurrent`.
        """
        body, dense = self.body, partial(nn.Dense, dtype=self.dtype)

        def hidden(size: int, x: jax.Array) -> jax.Array:
            x = on_rows(dense(size, kernel_init=nn.initializers.orthogonal(math.sqrt(2))), x)
            if body.layer_norm:
                x = nn.LayerNorm(dtype=self.dtype)(x)
            return ACTIVATIONS[body.activation](x)

        for size in body.hidden_sizes:
            x = hidden(size, x)
        if body.remembers:
            x, memory = CELLS[body.network](body.cell_size, self.dtype, name=body.network)(x, memory, goes_on)
        shared = x
        for size in body.head_sizes:
            x = hidden(size, x)
        out = on_rows(dense(self.out_size, kernel_init=nn.initializers.orthogonal(self.out_scale)), x)
        if self.dtype is not None:
            out, x, shared = (part.astype(jnp.float32) for part in (out, x, shared))
        return out, x, shared, memory
