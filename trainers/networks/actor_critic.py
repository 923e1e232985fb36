"""An actor and a critic: what each sees and remembers, and whether agents share them."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.types import PAYLOAD
from trainers.networks.inbox import Inbox, Listener
from trainers.networks.layers import Body, Layers
from trainers.networks.recurrent import Memory
from trainers.networks.rows import on_rows

LARGEST, SMALLEST = 2.0, -5.0  # of a log standard deviation that depends on the observation
NO_MEMORY: tuple[Memory, Memory] = ((), ())


class Actor(nn.Module):
    """What describes the distribution of an action, see `trainers.learn.distributions`."""

    body: Body
    outputs: int
    initial_log_std: float | tuple[float, ...] | None = None  # of actions that are numbers; None for choices
    deviation: str = "free"  # free: the same standard deviation for all observations; state: one for each
    dtype: Any = None
    inbox: Inbox | None = None  # what listens to words, if anything does
    words: int = 0  # of the outputs, the last ones: what is said, which also has a linear path from what is observed

    @nn.compact
    def __call__(
        self, obs: jax.Array, memory: Memory = (), goes_on: jax.Array | None = None
    ) -> tuple[Any, jax.Array, Memory]:
        """Map obs (..., D) and memory to outputs (..., A), what a critic can share (..., H), and the new memory.

        With `initial_log_std` the outputs are a pair: (..., A), and log_std, (A,) or (..., A). goes_on: see `Layers`.
        """
        if self.inbox is not None:
            obs = Listener(self.inbox, self.dtype, name="listener")(obs)
        layers = Layers(self.body, self.outputs, 0.01, self.dtype, name="MLP_0")  # as in checkpoints of older versions
        described, hidden, shared, memory = layers(obs, memory, goes_on)
        if self.words:
            direct = nn.Dense(self.words, use_bias=False, kernel_init=nn.initializers.orthogonal(0.01), name="direct")
            silent = self.outputs - self.words
            described = jnp.concatenate(
                [described[..., :silent], described[..., silent:] + on_rows(direct, obs)], axis=-1
            )
        if self.initial_log_std is None:
            return described, shared, memory
        log_stds = np.broadcast_to(np.asarray(self.initial_log_std, np.float32), self._deviations)
        motors = slice(self.outputs - self.words)

        def begin(part: slice) -> Any:
            return lambda _key, shape, dtype: jnp.broadcast_to(jnp.asarray(log_stds[part], dtype), shape)

        if self.deviation == "free":
            log_std = self.param("log_std", begin(slice(None)), self._deviations, jnp.float32)
        else:  # words keep one for all observations
            small = nn.initializers.orthogonal(0.01)
            log_std = nn.Dense(motors.stop, kernel_init=small, bias_init=begin(motors), name="log_std")(hidden)
            log_std = jnp.clip(log_std, SMALLEST, LARGEST)
            if self.words:
                said = self.param("words_log_std", begin(slice(motors.stop, None)), (PAYLOAD,), jnp.float32)
                log_std = jnp.concatenate([log_std, jnp.broadcast_to(said, (*log_std.shape[:-1], PAYLOAD))], axis=-1)
        return (described, log_std), shared, memory

    @property
    def _deviations(self) -> tuple[int]:
        """How many numbers have a standard deviation: all outputs, or of words the payload alone."""
        return (self.outputs - self.words + PAYLOAD if self.words else self.outputs,)


class Critic(nn.Module):
    """The value of an observation, or of the layer that it shares with an actor."""

    body: Body
    central: bool = False  # sees the other agents of its world
    dtype: Any = None
    inbox: Inbox | None = None

    @nn.compact
    def __call__(
        self, seen: jax.Array, more: jax.Array | None = None, memory: Memory = (), goes_on: jax.Array | None = None
    ) -> tuple[jax.Array, Memory]:
        """Map (..., D) and memory to value (...,) and the new memory.

        more: (..., K), what the critic sees beside it. With `central` it is (..., N, K), a row for each agent, whose last
        number is 1 for those in the world and else 0. goes_on: see `Layers`.
        """
        if self.inbox is not None:
            seen = Listener(self.inbox, self.dtype, name="listener")(seen)
        if more is not None:
            others = [self.others(more)] if self.central else []
            seen = jnp.concatenate([seen, more, *others], axis=-1)
        value, *_, memory = Layers(self.body, 1, 1.0, self.dtype, name="MLP_0")(seen, memory, goes_on)
        return value[..., 0], memory

    def others(self, rows: jax.Array) -> jax.Array:
        """Return for each agent the mean of the encodings of all others, (..., N, H): in no order, for any number of them
        (Zaheer et al. 2017)."""
        size, init = (*self.body.hidden_sizes, 64)[0], nn.initializers.orthogonal(2**0.5)
        present = rows[..., -1:]
        encoded = jnp.tanh(nn.Dense(size, dtype=self.dtype, kernel_init=init, name="others")(rows)) * present
        total, count = jnp.sum(encoded, axis=-2, keepdims=True), jnp.sum(present, axis=-2, keepdims=True)
        return (total - encoded) / jnp.maximum(count - present, 1.0)


@dataclasses.dataclass(frozen=True)
class ActorCritic:
    """An actor and a critic as functions of their weights and memories, pairs of the actor's and the critic's.

    One network for all agents, or with `agents` one for each: weights then have a leading axis, and the agents are the last
    axis of lanes. A central critic sees the whole team, and is always one.
    """

    body: Body
    outputs: int
    initial_log_std: float | tuple[float, ...] | None
    deviation: str = "free"
    critic_kind: str = "local"  # local: sees what the actor sees; central, privileged: more, and remembers nothing
    shared_trunk: bool = False
    agents: int = 0
    dtype: Any = None
    inbox: Inbox | None = None
    words: int = 0

    @property
    def actor(self) -> Actor:
        about = self.initial_log_std, self.deviation, self.dtype, self.inbox, self.words
        return Actor(self.body, self.outputs, *about)

    @property
    def critic(self) -> Critic:
        inbox = None if self.shared_trunk else self.inbox
        return Critic(self.critic_body, self.critic_kind == "central", self.dtype, inbox)

    @property
    def critic_body(self) -> Body:
        """The layers of the critic alone."""
        if self.shared_trunk:
            return self.body.head()
        return self.body if self.critic_kind == "local" else self.body.forgetful()

    @property
    def of_actor(self) -> dict[str, Any]:
        """What describes the actor besides its inputs and outputs, by name."""
        about = {"deviation": self.deviation, "agents": self.agents, "inbox": self.inbox}
        return dataclasses.asdict(self.body) | about

    @property
    def critic_remembers(self) -> bool:
        """Whether a value depends on what has been seen before."""
        return self.body.remembers and self.critic_kind == "local"

    def init(self, k_actor: jax.Array, k_critic: jax.Array, obs: jax.Array, more: jax.Array | None) -> dict[str, Any]:
        """Return new weights, `actor` and `critic`. obs, more: (N, D) and (N, K), for their shapes."""
        memory = self.begin(obs.shape[:-1])
        params = {"actor": self._each(self.actor.init, k_actor, (obs, memory[0]))}
        seen = self.act(params, obs, memory[0])[1] if self.shared_trunk else obs
        params["critic"] = self._each(self.critic.init, k_critic, (seen, more, memory[1]), self._critics)
        return params

    def begin(self, lanes: tuple[int, ...]) -> tuple[Memory, Memory]:
        """Return the memory of as many lanes at the beginning of an episode."""
        return self.body.begin(lanes), self.critic_body.begin(lanes)

    def act(
        self, params: dict, obs: jax.Array, memory: Memory = (), goes_on: jax.Array | None = None
    ) -> tuple[Any, jax.Array, Memory]:
        """Do the actor's part: see `Actor`."""
        return apply_actor(self.actor, self.agents, params["actor"], obs, memory, goes_on)

    def __call__(
        self, params: dict, obs: jax.Array, more: jax.Array | None = None,
        memory: tuple[Memory, Memory] = NO_MEMORY, goes_on: jax.Array | None = None,
    ) -> tuple[Any, jax.Array, tuple[Memory, Memory]]:  # fmt: skip
        """Return what describes the actions, the values (...,), and the new memory. Arguments: see `Actor` and `Critic`."""
        described, shared, acted = self.act(params, obs, memory[0], goes_on)
        seen = shared if self.shared_trunk else obs
        value, judged = self._judge(params, seen, more, memory[1], goes_on)
        return described, value, (acted, judged)

    def value(
        self, params: dict, obs: jax.Array, more: jax.Array | None = None, memory: tuple[Memory, Memory] = NO_MEMORY
    ) -> jax.Array:
        """Return the values (...,) of observations. The critic's part alone, unless it shares layers with the actor."""
        seen = self.act(params, obs, memory[0])[1] if self.shared_trunk else obs
        return self._judge(params, seen, more, memory[1], None)[0]

    @property
    def _critics(self) -> int:
        return 0 if self.critic_kind == "central" else self.agents

    def _judge(self, params: dict, seen: Any, more: Any, memory: Memory, goes_on: Any) -> tuple[jax.Array, Memory]:
        if not self._critics:
            return self.critic.apply(params["critic"], seen, more, memory, goes_on)
        axes = (0, -2, None if more is None else -2, -2, None if goes_on is None else -1)
        return jax.vmap(self.critic.apply, axes, (-1, -2))(params["critic"], seen, more, memory, goes_on)

    def _each(self, init: Any, key: jax.Array, example: tuple, agents: int | None = None) -> Any:
        """Return the weights of one network, or those of each agent's."""
        agents = self.agents if agents is None else agents
        if not agents:
            return init(key, *example)
        return jax.vmap(init)(jax.random.split(key, agents), *example)


def apply_actor(
    actor: Actor, agents: int, params: Any, obs: jax.Array, memory: Memory, goes_on: jax.Array | None = None
) -> tuple[Any, jax.Array, Memory]:
    """Apply the network of all agents, or with `agents` that of each. See `Actor`."""
    if not agents:
        return actor.apply(params, obs, memory, goes_on)
    return jax.vmap(actor.apply, (0, -2, -2, None if goes_on is None else -1), -2)(params, obs, memory, goes_on)


def attention_of(actor: Actor, agents: int, params: Any, obs: jax.Array, memory: Memory) -> jax.Array:
    """Return what each agent listens to, (..., N, slots). actor: one with an inbox. See `apply_actor`."""

    def weights(params: Any, obs: jax.Array, memory: Memory) -> jax.Array:
        _, kept = actor.apply(params, obs, memory, mutable=["intermediates"])
        return kept["intermediates"]["listener"]["attention"][0]

    return jax.vmap(weights, (0, -2, -2), -2)(params, obs, memory) if agents else weights(params, obs, memory)
