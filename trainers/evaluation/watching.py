"""The hooks that the options of a training ask for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.checks import NEVER
from entropy_env.env import Swarm
from entropy_env.render import Renderer
from entropy_env.task import Task
from entropy_env.types import SwarmParams
from trainers.evaluation.figures import chunk_size
from trainers.evaluation.film import write_film
from trainers.evaluation.play import Episode, attuned, episode_key, film, play
from trainers.policies import Policy
from trainers.run.hooks import Hook, Moment
from trainers.run.options import WatchOptions
from trainers.run.stopping import SUCCESS, Mean, RecentMean, Target
from trainers.run.watching import Films, judge

DURING = 0x6475726E  # folded into the keys of evaluations during a training, so `trainers.evaluate` plays other worlds


def watch(
    options: WatchOptions, task: Task, policy: Callable[[Moment], Policy], seed: int,
    success: Mean | None = None, episode_return: Mean | None = None,
) -> list[Hook]:  # fmt: skip
    """Return the hooks that the options ask for: evaluation, the best checkpoint, targets, films, in this order.

    task: the worlds to evaluate and film in. policy: makes the policy after an update. seed: of these worlds.
    success, episode_return: the means that targets are for; by default those of a native learner.
    Raises ValueError if such worlds are impossible or have no time limit, RuntimeError if films cannot be drawn.
    """
    hooks = judge(
        options,
        policy,
        lambda: FreshWorlds(*task.make(on_goal="terminate"), options.eval_episodes, seed),
        episode_return,
    )
    if options.target_success is not None:
        hooks.append(Target("success", options.target_success, success or RecentMean(*SUCCESS)))
    if options.film_interval:
        Renderer()  # raises if pygame is missing
        env, params = _timed(*task.make(on_goal="terminate"))
        hooks.append(Films(options.film_interval, partial(_film, policy, env, params, fresh_key(seed, 0))))
    return hooks


def fresh_key(seed: int, index: int | jax.Array) -> jax.Array:
    """Return the key of an episode that neither a training nor `trainers.evaluate` plays."""
    return jax.random.fold_in(episode_key(seed, index), DURING)


class FreshWorlds:
    """Plays one episode in each of the same worlds with every policy that it is given."""

    def __init__(self, env: Swarm, params: SwarmParams, episodes: int, seed: int) -> None:
        self._env, self._params = _timed(env, params)
        self._episodes, self._seed = episodes, seed

    def __call__(self, policy: Policy) -> dict[str, float]:
        """Return the means over all worlds, with sampled actions."""
        size = chunk_size(self._env, self._episodes)
        chunks = -(-self._episodes // size)
        keys = jax.vmap(fresh_key, (None, 0))(self._seed, jnp.arange(chunks * size, dtype=jnp.int32))
        policy = attuned(policy, self._params)
        parts = [jax.device_get(play_all(self._env, policy, self._params, some)) for some in keys.reshape(chunks, size)]
        played = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: self._episodes], *parts)
        return means(played.of_carriers(self._env.spec))


@partial(jax.jit, static_argnums=0)
def play_all(env: Swarm, policy: Policy, params: SwarmParams, keys: jax.Array) -> Episode:
    """Play an episode with sampled actions for each of E keys. Compiled once for an environment and a kind of policy."""
    return jax.vmap(partial(play, env), (None, None, 0, None))(policy, params, keys, True)


def means(episodes: Episode) -> dict[str, float]:
    """Return the means of E episodes: first over the agents of a world, then over worlds."""
    reached, steps = np.asarray(episodes.reached), np.asarray(episodes.steps)
    return {
        "success": float(reached.mean()),
        "world_success": float(reached.all(axis=1).mean()),
        "collision_rate": float(np.mean(episodes.contacts.sum(axis=1) / steps.sum(axis=1))),
        "episode_length": float(steps.mean()),
        "return": float(episodes.total_reward.mean()),
    }


def _timed(env: Swarm, params: SwarmParams) -> tuple[Swarm, SwarmParams]:
    if int(params.max_steps) == NEVER:
        raise ValueError("max_steps='never' has no end: evaluate and film with a time limit")
    return env, params


def _film(
    policy: Callable[[Moment], Policy], env: Swarm, params: SwarmParams, key: jax.Array, moment: Moment, path: Path
) -> None:
    time_steps = film(policy(moment), env, params, key, sampled=True)
    write_film(path, time_steps, env.spec, params, f"{moment.step:,} steps")
