"""A recurrent policy in JAX: the actor of sb3-contrib's RecurrentPPO."""

from __future__ import annotations

import secrets
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from entropy_env.task import Task

Memory = tuple[tuple[jax.Array, jax.Array], ...]  # for each layer: output and cell, (..., units) each
Dense = tuple[jax.Array, jax.Array]  # weight (out, in) and bias (out,), as in torch


class Cell(struct.PyTreeNode):
    """One LSTM layer (Hochreiter & Schmidhuber 1997). Gates are in torch's order: input, forget, cell, output."""

    inputs: Dense  # (4 units, in)
    recurrent: Dense  # (4 units, units)

    def __call__(self, x: jax.Array, memory: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Map x (..., in) and the memory before to the memory after."""
        output, cell = memory
        gates = _apply(self.inputs, x) + _apply(self.recurrent, output)
        enter, forget, new, leave = jnp.split(gates, 4, axis=-1)
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(new)
        return jax.nn.sigmoid(leave) * jnp.tanh(cell), cell


class LSTMPolicy(struct.PyTreeNode):
    """A recurrent policy (`trainers.policies.Policy`). It maps observations and memories of agents to actions.

    >>> policy = load_policy("models/swarm_1.zip")
    >>> actions, memory = policy(obs, memory)

    Pass None as the memory when episodes begin.
    """

    cells: tuple[Cell, ...]
    hidden: tuple[Dense, ...]  # layers with tanh
    head: Dense  # gives the mean action
    log_std: jax.Array  # (action_dim,)
    shift: jax.Array  # (obs_dim,), subtracted from an observation first
    scale: jax.Array  # (obs_dim,), multiplied with it next
    limit: float  # the result is clipped to [-limit, limit]
    task: Task = struct.field(pytree_node=False)
    step: int

    @property
    def obs_dim(self) -> int:
        return self.shift.shape[-1]

    def begin(self, num_agents: int) -> Memory:
        """See `Policy`."""
        return self._blank(num_agents)

    def _blank(self, *lanes: int) -> Memory:
        sizes = [cell.recurrent[0].shape[-1] for cell in self.cells]
        return tuple((jnp.zeros((*lanes, units), jnp.float32),) * 2 for units in sizes)

    def act(self, obs: jax.Array, memory: Memory, key: jax.Array | None = None) -> tuple[jax.Array, Memory]:
        """See `Policy`."""
        x = jnp.clip((obs - self.shift) * self.scale, -self.limit, self.limit)
        new = []
        for cell, before in zip(self.cells, memory, strict=True):
            new.append(cell(x, before))
            x = new[-1][0]
        for layer in self.hidden:
            x = jnp.tanh(_apply(layer, x))
        action = _apply(self.head, x)
        if key is not None:
            action += jnp.exp(self.log_std) * jax.random.normal(key, action.shape, jnp.float32)
        return jnp.clip(action, -1.0, 1.0), tuple(new)

    def __call__(
        self,
        obs: jax.Array | np.ndarray,
        memory: Memory | None = None,
        key: jax.Array | None = None,
        *,
        sampled: bool | None = None,
    ) -> tuple[jax.Array | np.ndarray, Memory]:
        """Map obs (..., obs_dim) to actions (..., action_dim) in [-1, 1], mean ones or with a key sampled ones.

        memory: what the call before returned. Returns actions and the new memory. Actions are a JAX array for JAX arrays,
        else a NumPy array, which the caller may change. Raises ValueError for obs of another size.
        sampled: deprecated. True samples with a random key.
        """
        shape = np.shape(obs)
        if shape[-1:] != (self.obs_dim,):
            raise ValueError(f"obs has shape {shape}, this policy expects (..., {self.obs_dim})")
        if sampled is not None:
            warnings.warn("sampled=True is now key=jax.random.key(SEED)", DeprecationWarning, stacklevel=2)
            key = jax.random.key(secrets.randbits(32)) if sampled and key is None else key
        action, memory = _act(self, obs, self._blank(*shape[:-1]) if memory is None else memory, key)
        return action if isinstance(obs, jax.Array) else np.array(action), memory


@jax.jit
def _act(policy: LSTMPolicy, obs: Any, memory: Memory, key: jax.Array | None) -> tuple[jax.Array, Memory]:
    return policy.act(jnp.asarray(obs, jnp.float32), memory, key)


def _apply(layer: Dense, x: jax.Array) -> jax.Array:
    return x @ layer[0].T + layer[1]
