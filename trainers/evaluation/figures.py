"""Compute the figures of a policy over fresh worlds."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from rich.table import Table

from entropy_env import __version__
from entropy_env.checks import NEVER
from entropy_env.env import Swarm
from entropy_env.types import SwarmParams, SwarmSpec
from trainers.evaluation.intervals import Interval, mean_interval, share_interval
from trainers.evaluation.play import Episode, attuned, episode_key, player
from trainers.evaluation.shortest_path import shortest_paths, spl
from trainers.policies import Policy

CHUNK = 1 << 22  # pairs of agents simulated at a time, which bounds the memory
WORST = 0.1  # share of worlds in `worst_tenth`

Report = Callable[[str], None]


def ignore(message: str) -> None:
    """Report nothing."""


def check_counts(episodes: int, seed: int) -> None:
    """Raise ValueError for fewer than one episode, or for a seed out of range."""
    if episodes < 1:
        raise ValueError(f"{episodes=} must be at least 1")
    if not 0 <= seed < 2**32:
        raise ValueError(f"{seed=} must be from 0 to {2**32 - 1}")


def check_fits(policy: Policy, env: Swarm) -> None:
    """Raise ValueError if a policy was trained with other words, or other observations, than these worlds have."""
    components, here = "", env.spec
    if policy.task is not None:
        trained, _ = policy.task.resolve()
        there, components = trained.spec, _components(trained.spec, here)
        for name, matters in (("comm_neighbours", True), ("comm_channel", here.talks)):
            had, have = getattr(there, name), getattr(here, name)
            if had != have and matters:
                raise ValueError(
                    f"this policy was trained with {name}={had!r} in {trained.scenario.name!r}, and {name}={have!r} in these "
                    f"worlds of {env.scenario.name!r}: evaluate it where robots hear as many speakers on the same channel"
                )
    if here.obs_dim != policy.obs_dim:
        raise ValueError(
            f"observations have {here.obs_dim} numbers here, the policy expects {policy.obs_dim}{components}"
        )


def _components(there: SwarmSpec, here: SwarmSpec) -> str:
    """Say which components of the observation only one of two has."""
    told = (("only here", here, there), ("only where it was trained", there, here))
    parts = [
        f"{where}: {', '.join(missing)}"
        for where, one, other in told
        if (missing := [name for name in one.components if name not in other.components])
    ]
    return f" ({'; '.join(parts)})" if parts else ""


def chunk_size(env: Swarm, episodes: int) -> int:
    """Return how many worlds to play at a time."""
    return min(episodes, max(1, CHUNK // (env.spec.num_agents * max(env.spec.num_agents, 64))))


def episode_keys(env: Swarm, episodes: int, seed: int) -> jax.Array:
    """Return keys (chunks, worlds at a time): one per episode, and some more to fill the last chunk."""
    size = chunk_size(env, episodes)
    chunks = -(-episodes // size)
    return jax.vmap(episode_key, (None, 0))(seed, jnp.arange(chunks * size, dtype=jnp.int32)).reshape(chunks, size)


def evaluate_policy(
    policy: Policy, env: Swarm, params: SwarmParams, episodes: int, seed: int, report: Report = ignore
) -> dict[str, Any]:
    """Compute figures over fresh worlds, each with its 95 % interval.

    They are those of sampled actions; the key `deterministic` holds those of mean actions. Scouts count in none of them.
    Raises ValueError if a layout has no room for all agents, if there is no time limit, or if the policy was trained with
    other words.
    """
    check_counts(episodes, seed)
    check_fits(policy, env)
    if int(params.max_steps) == NEVER:
        raise ValueError("max_steps='never' has no end: evaluate with a time limit")
    policy, keys = attuned(policy, params), episode_keys(env, episodes, seed)
    report("compiling")
    started = time.perf_counter()
    play = player(policy, env, params, keys[0])
    compile_seconds = time.perf_counter() - started
    started, played = time.perf_counter(), {}
    for sampled in (True, False):
        parts = []
        for index, some in enumerate(keys):
            report(f"{'sampled' if sampled else 'deterministic'} episodes: {index * len(some)} of {episodes}")
            parts.append(jax.device_get(play(some, sampled)))
        played[sampled] = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:episodes], *parts)
    run_seconds = time.perf_counter() - started

    layouts, numpy_params = played[True].layout, jax.device_get(params)
    if not np.all(layouts.valid):
        raise ValueError(f"{np.sum(~layouts.valid)} of {episodes} layouts could not fit everything")
    shortest = np.empty(played[True].path.shape)  # (E, N)
    for index in range(episodes):
        report(f"shortest paths: {index} of {episodes}")
        shortest[index] = shortest_paths(jax.tree.map(lambda leaf, i=index: leaf[i], layouts), numpy_params)
    max_steps, shortest = int(params.max_steps), shortest[:, env.spec.num_scouts :]
    sampled, mean = (played[kind].of_carriers(env.spec) for kind in (True, False))
    return {
        **summarise(sampled, shortest, max_steps),
        "deterministic": summarise(mean, shortest, max_steps),
        "episodes": episodes,
        "seed": seed,
        "scenario": env.scenario.name,
        "difficulty": int(params.difficulty),
        "num_agents": env.spec.num_agents,
        "max_steps": max_steps,
        "checkpoint_step": int(policy.step),
        "compile_seconds": round(compile_seconds, 3),
        "run_seconds": round(run_seconds, 3),
        "device": jax.devices()[0].device_kind,
        "versions": {
            "entropy_env": __version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def summarise(episodes: Episode, shortest: np.ndarray, max_steps: int) -> dict[str, Interval]:
    """Compute the figures of E episodes. Each is first a mean over the agents of a world, then a mean over worlds.

    shortest: (E, N) m. `steps_to_goal` is over the agents that arrived, and over the worlds with such agents. `worst_tenth`
    is the success in the tenth of the worlds in which it is lowest, of E / 10 worlds rounded up. It has no interval: which
    worlds are the worst is only known after they are played, so they are no sample.
    """
    reached, steps = episodes.reached, episodes.steps
    arrivals = reached.sum(axis=1)
    steps_to_goal = np.sum(steps, axis=1, where=reached) / np.maximum(arrivals, 1)
    return {
        "success": share_interval(reached.mean(axis=1)),
        "world_success": share_interval(reached.all(axis=1)),
        "worst_tenth": {"mean": worst_tenth(reached.mean(axis=1)), "low": None, "high": None},
        "collision_rate": share_interval(episodes.contacts.sum(axis=1) / steps.sum(axis=1)),
        "steps_to_goal": mean_interval(steps_to_goal[arrivals > 0], 1, max_steps),
        "spl": share_interval(spl(reached, shortest, episodes.path).mean(axis=1)),
        "return": mean_interval(episodes.total_reward.mean(axis=1)),
    }


def worst_tenth(success: ArrayLike) -> float:
    """Return the mean of the lowest tenth of successes (E,), one per world, rounded up to whole worlds."""
    return float(np.sort(success)[: math.ceil(WORST * np.size(success))].mean())


def results_table(results: dict[str, Any]) -> Table:
    """Return a table of the sampled and the deterministic figures side by side."""
    task = "{scenario}, difficulty {difficulty}, {num_agents} agents, checkpoint {checkpoint_step}"
    sample = "{episodes} fresh worlds of seed {seed}, 95 % intervals over worlds"
    table = Table(title=task.format(**results), caption=sample.format(**results))
    for column in ("", "sampled", "deterministic"):
        table.add_column(column, justify="right" if column else "left")
    for name in results["deterministic"]:
        table.add_row(name, *(shown(figures[name]) for figures in (results, results["deterministic"])))
    return table


def shown(interval: Interval) -> str:
    """Return a figure with its interval, if it has one, as text."""
    mean, low, high = (
        "-" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}" for value in interval.values()
    )
    return mean if interval["low"] is None else f"{mean} ({low} to {high})"
