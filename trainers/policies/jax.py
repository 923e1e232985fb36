"""Policies in JAX that are trained here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from entropy_env.checks import SPEC, as_count
from entropy_env.task import Task
from trainers.learn.distributions import GAUSSIANS, Categorical, Distribution, MultiCategorical
from trainers.learn.normalize import RunningMoments, normalize
from trainers.learn.speech import Talking
from trainers.networks.actor_critic import Actor, apply_actor, attention_of
from trainers.networks.inbox import Inbox
from trainers.networks.layers import ACTIVATIONS, NETWORKS, Body
from trainers.networks.recurrent import Memory
from trainers.policies.own_spaces import OwnSpaces


@dataclasses.dataclass(frozen=True)
class ActorSpec:
    """The network that chooses actions."""

    obs_dim: int
    action_dim: int  # numbers in an action, 0 for a single choice
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    choices: tuple[int, ...] = ()  # alternatives of each choice, none if actions are floats
    network: str = "mlp"
    cell_size: int = 64
    head_sizes: tuple[int, ...] = ()
    layer_norm: bool = False
    deviation: str = "free"
    action_distribution: str = "clipped"
    agents: int = 0  # that have a network each; 0 for one that all share
    talks: bool = False  # whether an action is motors and words; `action_dim` then counts the motors
    inbox: Inbox | None = None  # what listens to words, if anything does

    def __post_init__(self) -> None:
        for name in ("hidden_sizes", "head_sizes", "choices"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON gives a list
        if isinstance(self.inbox, Mapping):  # JSON gives one
            object.__setattr__(self, "inbox", Inbox(**self.inbox))
        for name, known in (
            ("activation", ACTIVATIONS), ("network", NETWORKS), ("action_distribution", GAUSSIANS),
            ("deviation", ("free", "state")),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(known)}")

    @classmethod
    def of(cls, obs_dim: int, actions: Distribution, **network: Any) -> Self:
        """Describe the network whose head parametrises a distribution. network: fields of this class."""
        if isinstance(actions, Categorical):
            return cls(obs_dim, 0, choices=(actions.count,), **network)
        if isinstance(actions, MultiCategorical):
            return cls(obs_dim, len(actions.counts), choices=actions.counts, **network)
        motors = actions.motors if isinstance(actions, Talking) else actions
        kind = next(name for name, known in GAUSSIANS.items() if type(motors) is known)
        return cls(obs_dim, motors.outputs, action_distribution=kind, talks=motors is not actions, **network)

    @property
    def actions(self) -> Distribution:
        """The distribution of the actions."""
        if not self.choices:
            motors = GAUSSIANS[self.action_distribution](self.action_dim)
            return Talking(motors) if self.talks else motors
        return MultiCategorical(self.choices) if self.action_dim else Categorical(*self.choices)

    @property
    def body(self) -> Body:
        """The layers of the network."""
        return Body(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Body)})

    @functools.cached_property
    def num_memories(self) -> int:
        """The number of arrays in a memory."""
        return len(jax.tree.leaves(self.body.begin(())))

    @property
    def network_of_one(self) -> Actor:
        """The network, of each agent if they have one each."""
        log_std = 0.0 if self.actions.has_scale else None
        words = self.actions.outputs - self.action_dim if self.talks else 0
        return Actor(self.body, self.actions.outputs, log_std, self.deviation, None, self.inbox, words)

    def init(self, key: jax.Array) -> Any:
        """Return new weights."""
        lanes = (self.agents,) if self.agents else ()
        obs, memory = jnp.zeros((*lanes, self.obs_dim), jnp.float32), self.body.begin(lanes)
        init = self.network_of_one.init
        return jax.vmap(init)(jax.random.split(key, self.agents), obs, memory) if lanes else init(key, obs, memory)


class ActorPolicy(struct.PyTreeNode):
    """A policy (`trainers.policies.Policy`). It maps observations of any number of agents to actions.

    >>> policy = load_policy("runs/open")
    >>> actions = {agent: policy(obs) for agent, obs in observations.items()}

    One that remembers, or has a network for each agent, is used as

    >>> memory = policy.begin(num_agents)
    >>> actions, memory = policy.act(obs, memory)
    >>> actions = policy.own.stretch(actions)
    """

    params: Any  # weights of the actor
    moments: RunningMoments  # of the observations in training
    spec: ActorSpec = struct.field(pytree_node=False)
    task: Task | None = struct.field(pytree_node=False, default=None)
    step: int = 0
    own: OwnSpaces = struct.field(pytree_node=False, default=OwnSpaces())  # of the environment

    @property
    def obs_dim(self) -> int:
        return self.spec.obs_dim

    def __call__(self, obs: jax.Array | np.ndarray, key: jax.Array | None = None) -> jax.Array | np.ndarray:
        """Map an observation of the environment to an action that it takes: numbers in its bounds, or indices of choices.

        obs: as the environment gives it, or flat (..., obs_dim). The action is the mean or likeliest one, or with a key a
        sampled one. Returns a JAX array for JAX arrays, else a NumPy array, which the caller may change. Raises ValueError
        for obs of another size, and for a policy that remembers.
        """
        if self.spec.body.remembers:
            raise ValueError(
                "this policy remembers: call memory = policy.begin(num_agents), and policy.act(obs, memory)"
            )
        obs = self.own.flatten(obs, self.obs_dim)
        if self.spec.agents:
            self._check_agents(np.shape(obs)[-2] if np.ndim(obs) > 1 else 1)
        action, _ = _act(self.replace(own=OwnSpaces()), obs, (), key)
        return self.own.stretch(action if isinstance(obs, jax.Array) else np.array(action))

    def begin(self, num_agents: int) -> Memory:
        """Return the memory of as many agents at the beginning of an episode, () for a policy that remembers nothing.

        Raises ValueError for a number below 1, and if there is a network for each agent, of another number of them.
        """
        num_agents = as_count("num_agents", num_agents, SPEC["num_agents"])
        self._check_agents(num_agents)
        return self.spec.body.begin((num_agents,))

    def act(self, obs: jax.Array, memory: Memory, key: jax.Array | None = None) -> tuple[jax.Array, Memory]:
        """Map obs (N, obs_dim) of all agents to actions (N, action_dim) in [-1, 1], and to their new memory.

        memory: of `begin`, or of the step before. Without a key the mean actions, with a key of JAX sampled ones.
        Raises ValueError if obs, or the memory, is of another number of agents, or obs of another size.
        """
        self._check_sizes(np.shape(obs), memory)
        return _act(self, obs, memory, key)

    def attention(self, obs: jax.Array, memory: Memory) -> jax.Array:
        """Return how much each agent listens to each slot of its inbox, (N, slots): at most 1 in sum, 0 for an empty one.

        Raises ValueError for a policy that does not listen.
        """
        if self.spec.inbox is None:
            raise ValueError("this policy listens to nobody: train one with --comm attention or mean")
        self._check_sizes(np.shape(obs), memory)
        return _attend(self, obs, memory)

    def tuned(self, comm_range: float) -> ActorPolicy:
        """Return the same policy for words that are heard up to another distance, m, over which offsets are observed."""
        if self.spec.inbox is None:
            return self
        inbox = dataclasses.replace(self.spec.inbox, reach=float(comm_range))
        return self.replace(spec=dataclasses.replace(self.spec, inbox=inbox))

    def _check_sizes(self, shape: tuple[int, ...], memory: Memory) -> None:
        if not shape or shape[-1] != self.obs_dim:
            raise ValueError(f"obs has shape {shape}, expected (agents, {self.obs_dim})")
        kept = jax.tree.leaves(memory)
        if len(kept) != self.spec.num_memories:
            raise ValueError(f"memory={memory!r} is not one of this policy: begin with policy.begin(num_agents)")
        for leaf in kept:
            if np.shape(leaf)[:-1] != shape[:-1]:
                raise ValueError(
                    f"obs has shape {shape}, and memory is of {np.shape(leaf)[:-1]} agents: give one row for each agent"
                )

    def _check_agents(self, num_agents: int) -> None:
        if self.spec.agents not in (0, num_agents):
            raise ValueError(
                f"this policy has a network for each of {self.spec.agents} agents (sharing=independent), and there are "
                f"{num_agents}"
            )


@jax.jit
def _attend(policy: ActorPolicy, obs: Any, memory: Memory) -> jax.Array:
    obs, spec = normalize(policy.moments, jnp.asarray(obs, jnp.float32)), policy.spec
    return attention_of(spec.network_of_one, spec.agents, policy.params, obs, memory)


@jax.jit
def _act(policy: ActorPolicy, obs: Any, memory: Memory, key: jax.Array | None) -> tuple[jax.Array, Memory]:
    obs, spec = normalize(policy.moments, jnp.asarray(obs, jnp.float32)), policy.spec
    described, _, memory = apply_actor(spec.network_of_one, spec.agents, policy.params, obs, memory)
    action = spec.actions.mode(described) if key is None else spec.actions.sample(key, described)
    action = spec.actions.executed(action)
    return jnp.clip(action, -1.0, 1.0) if spec.actions.has_scale else action, memory
