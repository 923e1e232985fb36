"""Play fresh episodes in any batched environment, and compute the figures of a policy over them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from trainers.envs.contract import BatchedEnv, going_on
from trainers.evaluation.figures import check_counts
from trainers.evaluation.intervals import mean_interval
from trainers.evaluation.play import episode_key
from trainers.policies import Policy
from trainers.run.files import to_json, write_atomic
from trainers.run.terminal import say

LONGEST = 100_000  # steps, after which an episode counts as one without an end


class Episodes(Protocol):
    """Plays the first episodes of every lane of all worlds, as often as needed."""

    def __call__(self, policy: Policy, count: int, sampled: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Play with sampled or likeliest actions. Returns the return, the length and whether there was an end, (count,) each."""


class FreshEpisodes:
    """`Episodes` in a batched environment."""

    def __init__(
        self, env: BatchedEnv, params: Any, seed: int, key_of: Callable[[int, int], jax.Array] = episode_key
    ) -> None:
        """key_of: makes the key of some worlds of the seed and their number."""
        shown = jax.eval_shape(env.reset, jax.random.key(0), params)[0]
        self._lanes, self._key_of = shown.shape[0] * shown.shape[1], partial(key_of, seed)
        self._play = partial(jax.jit(partial(first_episodes, env)), params)

    def __call__(self, policy: Policy, count: int, sampled: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `Episodes`."""
        keys = [self._key_of(index) for index in range(-(-count // self._lanes))]
        played = [jax.device_get(self._play(policy, key, sampled)) for key in keys]
        returns, lengths, ended = (
            np.concatenate([np.ravel(part) for part in parts])[:count] for parts in zip(*played, strict=True)
        )
        return returns, lengths, ended


def evaluate_in(play: Episodes, policy: Policy, episodes: int = 256, seed: int = 0) -> dict[str, Any]:
    """Compute return and length over fresh episodes, each with its 95 % interval, cut to what was seen.

    The figures are those of sampled actions; the key `deterministic` holds those of the mean or likeliest ones. seed: that
    of the episodes. Raises ValueError for episodes without an end.
    """
    check_counts(episodes, seed)
    figures = {}
    for sampled in (True, False):
        returns, lengths = _played(play, policy, episodes, sampled)
        figures[sampled] = {
            "return": mean_interval(returns, returns.min(), returns.max()),
            "episode_length": mean_interval(lengths, lengths.min(), lengths.max()),
        }
    about = {"episodes": episodes, "seed": seed, "checkpoint_step": int(policy.step)}
    return {**figures[True], "deterministic": figures[False], **about}


def mean_figures(play: Episodes, episodes: int, policy: Policy) -> dict[str, float]:
    """Return the mean return and length over fresh episodes with sampled actions. Raises ValueError as `evaluate_in`."""
    returns, lengths = _played(play, policy, episodes, True)
    return {"return": float(returns.mean()), "episode_length": float(lengths.mean())}


def _played(play: Episodes, policy: Policy, episodes: int, sampled: bool) -> tuple[np.ndarray, np.ndarray]:
    returns, lengths, ended = play(policy, episodes, sampled)
    if not ended.all():
        raise ValueError(f"{np.sum(~ended)} of {episodes} episodes had no end after {LONGEST:,} steps")
    return returns, lengths


def report(results: dict[str, Any], folder: Path) -> None:
    """Write the figures of an evaluation to `evaluation.json` in a run folder, and print the returns."""
    write_atomic(folder / "evaluation.json", to_json(results, indent=2) + "\n")
    for kind, figures in (("sampled", results), ("deterministic", results["deterministic"])):
        say(f"Return over {results['episodes']} fresh episodes, {kind} actions: {figures['return']['mean']:.2f}")


def first_episodes(
    env: BatchedEnv, params: Any, policy: Policy, key: jax.Array, sampled: jax.Array | bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Play until every lane has ended an episode. Returns its return, its length and whether it ended, (E, N) each."""
    k_reset, k_steps = jax.random.split(key)
    obs, state = env.reset(k_reset, params)
    lanes = obs.shape[:2]
    fresh = jax.tree.map(lambda x: jnp.broadcast_to(x, (lanes[0], *x.shape)), policy.begin(lanes[1]))
    act = jax.vmap(policy.act)

    def going(carry):
        return ~jnp.all(carry[-1]) & (carry[0] < LONGEST)

    def step(carry):
        clock, obs, state, memory, returns, lengths, ended = carry
        k_act, k_step = jax.random.split(jax.random.fold_in(k_steps, clock))
        mode, new_memory = act(obs, memory)
        sample, _ = act(obs, memory, jax.random.split(k_act, lanes[0]))
        obs, state, _, terminated, truncated, info = env.step(k_step, state, jnp.where(sampled, sample, mode), params)
        goes_on = going_on(terminated, truncated, info)
        new_memory = jax.tree.map(lambda new, old: _where(goes_on, new, old), new_memory, fresh)
        first = (terminated | truncated) & ~ended
        returns = jnp.where(first, info["episode_return"], returns)
        lengths = jnp.where(first, info["episode_length"], lengths)
        return clock + 1, obs, state, new_memory, returns, lengths, ended | first

    zero = jnp.zeros(lanes, jnp.float32)
    start = jnp.int32(0), obs, state, fresh, zero, zero.astype(jnp.int32), zero > 0
    return jax.lax.while_loop(going, step, start)[-3:]


def _where(lanes: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Take the new array (E, N, ...) where lanes (E, N) is set, the old one elsewhere."""
    return jnp.where(lanes.reshape(*lanes.shape, *(1,) * (new.ndim - 2)), new, old)
