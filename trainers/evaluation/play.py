"""Play whole episodes with a policy, in worlds that no training has seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from entropy_env.env import Swarm
from entropy_env.types import Drive, Layout, SwarmParams, SwarmSpec, SwarmState
from trainers.evaluation.signals import OCTANTS, ROWS, tally
from trainers.policies import Memory, Policy

Array = jax.Array | np.ndarray

FRESH = 0x6576616C  # folded into the keys of evaluations; no trainer uses it


class Episode(struct.PyTreeNode):
    """The results of an episode, or with a leading axis those of E episodes."""

    layout: Layout
    reached: Array  # (N,) bool
    steps: Array  # (N,) int32, the agent's steps
    contacts: Array  # (N,) int32, the agent's steps in contact
    path: Array  # (N,) m, length of the agent's path
    total_reward: Array  # (N,)
    told: Array | None = None  # (N, ROWS, OCTANTS + 1) int32, what each said where its goal was: see `signals.tally`

    def of_carriers(self, spec: SwarmSpec) -> Episode:
        """Return the same with the numbers of robots that have a goal, which figures are about: scouts have none.

        The layout, and what was told, stay those of all.
        """
        if not spec.num_scouts:
            return self
        names, who = ("reached", "steps", "contacts", "path", "total_reward"), np.flatnonzero(~spec.is_scout)
        return self.replace(**{name: getattr(self, name)[..., who] for name in names})


class TimeStep(NamedTuple):
    """One world at one step of an episode, NumPy."""

    state: SwarmState
    obs: Array  # (N, D)
    total_reward: np.ndarray  # (N,), so far
    attention: Array | None = None  # (N, comm_neighbours), how much each robot listens to what it hears now


Live = Callable[[jax.Array, bool], Iterator[TimeStep]]  # plays the episode of a key, with sampled or mean actions


class Choose(Protocol):
    """Chooses the actions of a step."""

    def __call__(
        self, policy: Policy, key: jax.Array, obs: jax.Array, state: SwarmState, memory: Memory, sampled: Any
    ) -> tuple[jax.Array, Memory]:
        """Return actions (N, action_dim), sampled with the key or mean ones, and the new memory."""


def choose(
    policy: Policy, key: jax.Array, obs: jax.Array, state: SwarmState, memory: Memory, sampled: Any
) -> tuple[jax.Array, Memory]:
    """Choose as the policy does. See `Choose`."""
    mean, new_memory = policy.act(obs, memory)
    sample, _ = policy.act(obs, memory, key)
    return jnp.where(sampled, sample, mean), new_memory


def attuned(policy: Any, params: SwarmParams) -> Any:
    """Return the policy made ready for the `comm_range` of these worlds, if it is of a kind that depends on it."""
    return policy.tuned(float(params.comm_range)) if hasattr(policy, "tuned") else policy


def episode_key(seed: int, index: int | jax.Array) -> jax.Array:
    """Return the key of one episode of an evaluation. It decides its world and its sampled actions."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), FRESH), index)


def play(
    env: Swarm, policy: Policy, params: SwarmParams, key: jax.Array, sampled: jax.Array | bool,
    choose: Choose = choose, tallied: bool = False,
) -> Episode:  # fmt: skip
    """Play one episode with sampled or mean actions, until every agent has arrived or the time is up.

    tallied: whether to count what is told, which takes robots that talk.
    """
    k_world, k_actions = jax.random.split(key)
    obs, state = env.reset(k_world, params)
    memory, zero = policy.begin(env.spec.num_agents), jnp.zeros(env.spec.num_agents, jnp.int32)
    told = jnp.zeros((env.spec.num_agents, ROWS, OCTANTS + 1), jnp.int32) if tallied else None
    episode = Episode(state.layout, zero > 0, zero, zero, zero.astype(jnp.float32), zero.astype(jnp.float32), told)

    def going(carry):
        return ~carry[1].over

    def step(carry):
        seen, before, memory, episode = carry
        obs, state, memory, reward, info = act_and_step(
            env, policy, params, k_actions, seen, before, memory, sampled, choose
        )
        if tallied:
            goal, words = seen[:, env.spec.slice("goal")], state.words
            new = tally(words.token[:, 0], words.payload[:, 0], goal, before.active)
            episode = episode.replace(told=episode.told + new)
        episode = episode.replace(
            reached=episode.reached | info["reached"],
            steps=episode.steps + before.active.astype(jnp.int32),
            contacts=episode.contacts + info["collision"].astype(jnp.int32),
            path=episode.path + travelled(before, state, env.spec.drive),
            total_reward=episode.total_reward + reward,
        )
        return obs, state, memory, episode

    return jax.lax.while_loop(going, step, (obs, state, memory, episode))[-1]


def act_and_step(
    env: Swarm, policy: Policy, params: SwarmParams, key: jax.Array, obs: jax.Array, state: SwarmState, memory: Memory,
    sampled: Any, choose: Choose = choose,
) -> tuple[jax.Array, SwarmState, Memory, jax.Array, dict[str, Any]]:  # fmt: skip
    """Step an episode once. Returns obs, state, memory, reward and info.

    key: for all actions of the episode; the step's number is folded into it.
    """
    k_act, k_step = jax.random.split(jax.random.fold_in(key, state.step))
    action, memory = choose(policy, k_act, obs, state, memory, sampled)
    obs, state, reward, *_, info = env.step(k_step, state, action, params)
    return obs, state, memory, reward, info


def travelled(before: SwarmState, after: SwarmState, drive: Drive = "kinematic") -> jax.Array:
    """Return the lengths (N,) m of the arcs from one pose to the next. With the force drive robots slide: a straight line."""
    chord = jnp.linalg.norm(after.position - before.position, axis=-1)
    if drive == "force":
        return chord
    turn = (after.heading - before.heading + jnp.pi) % (2 * jnp.pi) - jnp.pi
    return chord / jnp.sinc(turn / (2 * jnp.pi))


def player(
    policy: Policy, env: Swarm, params: SwarmParams, keys: jax.Array
) -> Callable[[jax.Array, jax.Array | bool], Episode]:
    """Compile a function that plays one episode for each of E keys. keys: any (E,) keys, for their shape."""
    play_all = jax.jit(jax.vmap(partial(play, env), (None, None, 0, None)))
    return partial(play_all.lower(policy, params, keys, True).compile(), policy, params)


def live(policy: Any, env: Swarm, params: SwarmParams) -> Live:
    """Return a function that plays an episode step by step, and yields its time steps from the first to the last."""
    policy = attuned(policy, params)
    listens = env.spec.talks and getattr(getattr(policy, "spec", None), "inbox", None) is not None

    def time_steps(key: jax.Array, sampled: bool) -> Iterator[TimeStep]:
        k_world, k_actions = jax.random.split(key)
        obs, state = _reset(env, k_world, params)
        memory = policy.begin(env.spec.num_agents)
        total_reward = np.zeros(env.spec.num_agents, np.float32)

        def shown() -> TimeStep:
            attention = policy.attention(obs, memory) if listens else None
            return jax.device_get(TimeStep(state, obs, total_reward, attention))

        yield shown()
        while not state.over:
            obs, state, memory, reward, _ = _step(env, policy, params, k_actions, obs, state, memory, sampled)
            total_reward = total_reward + np.asarray(reward)
            yield shown()

    return time_steps


_reset, _step = jax.jit(Swarm.reset, static_argnums=0), jax.jit(act_and_step, static_argnums=0)  # compiled once per env


def film(policy: Policy, env: Swarm, params: SwarmParams, key: jax.Array, sampled: bool) -> list[TimeStep]:
    """Play one episode, and return its time steps."""
    return list(live(policy, env, params)(key, sampled))
