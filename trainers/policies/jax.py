"""Feed-forward policies in JAX."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from entropy_env.task import Task
from trainers.learn.normalize import RunningMoments, normalize
from trainers.networks.mlp import ACTIVATIONS, GaussianActor


@dataclasses.dataclass(frozen=True)
class ActorSpec:
    """The network that chooses actions."""

    obs_dim: int
    action_dim: int
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))  # JSON gives a list
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation={self.activation!r} must be one of {', '.join(ACTIVATIONS)}")

    @property
    def network(self) -> GaussianActor:
        return GaussianActor(self.hidden_sizes, self.action_dim, activation=self.activation)


class ActorPolicy(struct.PyTreeNode):
    """A feed-forward policy (`trainers.policies.Policy`). It maps observations of any number of agents to actions.

    >>> policy = load_policy("runs/open")
    >>> actions = {agent: policy(obs) for agent, obs in observations.items()}
    """

    params: Any  # weights of the actor
    moments: RunningMoments  # of the observations in training
    spec: ActorSpec = struct.field(pytree_node=False)
    task: Task | None = struct.field(pytree_node=False, default=None)
    step: int = 0

    @property
    def obs_dim(self) -> int:
        return self.spec.obs_dim

    def __call__(self, obs: jax.Array | np.ndarray, key: jax.Array | None = None) -> jax.Array | np.ndarray:
        """Map obs (..., obs_dim) to actions (..., action_dim) in [-1, 1]: mean actions, or with a key sampled ones.

        Returns a JAX array for JAX arrays, else a NumPy array, which the caller may change. Raises ValueError for obs of
        another size.
        """
        if np.shape(obs)[-1:] != (self.obs_dim,):
            raise ValueError(f"obs has shape {np.shape(obs)}, this policy expects (..., {self.obs_dim})")
        action = _act(self, obs, key)
        return action if isinstance(obs, jax.Array) else np.array(action)

    def begin(self, num_agents: int) -> tuple[()]:
        """See `Policy`."""
        return ()

    def act(self, obs: jax.Array, memory: tuple[()], key: jax.Array | None = None) -> tuple[jax.Array, tuple[()]]:
        """See `Policy`."""
        return _act(self, obs, key), memory


@jax.jit
def _act(policy: ActorPolicy, obs: jax.Array, key: jax.Array | None) -> jax.Array:
    obs = normalize(policy.moments, jnp.asarray(obs, jnp.float32))
    output: Any = policy.spec.network.apply(policy.params, obs)
    action, log_std = output
    if key is not None:
        action += jnp.exp(log_std) * jax.random.normal(key, action.shape, jnp.float32)
    return jnp.clip(action, -1.0, 1.0)
