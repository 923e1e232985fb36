"""Feed-forward policies in JAX."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from entropy_env.task import Task
from trainers.learn.distributions import Categorical, Distribution, Gaussian, MultiCategorical
from trainers.learn.normalize import RunningMoments, normalize
from trainers.networks.mlp import ACTIVATIONS, Actor


@dataclasses.dataclass(frozen=True)
class ActorSpec:
    """The network that chooses actions."""

    obs_dim: int
    action_dim: int  # numbers in an action, 0 for a single choice
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    choices: tuple[int, ...] = ()  # alternatives of each choice, none if actions are floats

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))  # JSON gives a list
        object.__setattr__(self, "choices", tuple(self.choices))
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation={self.activation!r} must be one of {', '.join(ACTIVATIONS)}")

    @classmethod
    def of(cls, obs_dim: int, actions: Distribution, hidden_sizes: tuple[int, ...], activation: str) -> Self:
        """Describe the network whose head parametrises a distribution."""
        if isinstance(actions, Categorical):
            return cls(obs_dim, 0, hidden_sizes, activation, (actions.count,))
        if isinstance(actions, MultiCategorical):
            return cls(obs_dim, len(actions.counts), hidden_sizes, activation, actions.counts)
        return cls(obs_dim, actions.outputs, hidden_sizes, activation)

    @property
    def actions(self) -> Distribution:
        """The distribution of the actions."""
        if not self.choices:
            return Gaussian(self.action_dim)
        return MultiCategorical(self.choices) if self.action_dim else Categorical(*self.choices)

    @property
    def network(self) -> Actor:
        return Actor(self.hidden_sizes, self.actions.outputs, 0.0 if self.actions.has_scale else None, self.activation)


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
        """Map obs (..., obs_dim) to actions: floats (..., action_dim) in [-1, 1], or the indices of choices.

        They are the mean or likeliest actions, or with a key sampled ones.

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
    described: Any
    described, _ = policy.spec.network.apply(policy.params, obs)
    actions = policy.spec.actions
    action = actions.mode(described) if key is None else actions.sample(key, described)
    return jnp.clip(action, -1.0, 1.0) if actions.has_scale else action
