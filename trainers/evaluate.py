"""How well the policy of a run does on worlds it has never seen.

    python -m trainers.evaluate runs/open --episodes 256 --gif open.gif

Every world is one episode, in which agents that arrive leave. Its key is folded out of `--seed` by a constant that no
trainer uses, so that no seed repeats a world of training; world i of a seed is the same however many are evaluated.
Actions are sampled, as in training; what the mean action achieves in the same worlds stands beside. The figures are
printed and written to `evaluation.json` in the run folder.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from entropy_env import __version__
from entropy_env.env import Swarm
from entropy_env.render import Renderer
from entropy_env.types import SwarmParams
from entropy_env.video import MAX_GIF_FPS, write_video
from trainers.common.checkpoint import CheckpointError
from trainers.common.compilation import cache_compilations
from trainers.common.episodes import Episode, episode_key, film, play
from trainers.common.files import to_json, write_atomic
from trainers.common.intervals import Interval, mean_interval, share_interval
from trainers.common.policy import Policy, load_policy
from trainers.common.shortest_path import shortest_paths, spl

__all__ = ["Policy", "evaluate", "evaluate_policy", "load_policy"]

CHUNK = 1 << 22  # pairs of agents simulated at a time, what bounds the memory
OVERRIDES = ("scenario", "difficulty", "num_agents")  # of the worlds of the run
TRAIL = 40  # positions drawn behind each agent

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """Evaluate the policy of a run on fresh worlds, print the figures and write them to RUN_DIR/evaluation.json; with
    other worlds than those of the run, beside it."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of the run, whose newest checkpoint is evaluated."""
    episodes: int = 256
    """Worlds, one episode each."""
    seed: int = 0
    """Of the worlds and of the sampled actions."""
    scenario: str | None = None
    """Another scenario than the run's."""
    difficulty: int | None = None
    """Another difficulty than the run's, 1 to 4."""
    num_agents: int | None = None
    """Another number of agents than the run's."""
    gif: Path | None = None
    """Draw the first episode into this file."""
    mp4: Path | None = None
    """Draw the first episode into this file."""
    deterministic_video: bool = False
    """Draw it with the mean action instead of sampled ones."""


def evaluate(
    run_dir: str | os.PathLike[str],
    episodes: int = 256,
    *,
    seed: int = 0,
    scenario: str | None = None,
    difficulty: int | None = None,
    num_agents: int | None = None,
) -> dict[str, Any]:
    """What the command prints and writes, as a dict. Raises what `load_policy` raises, and ValueError."""
    policy = load_policy(run_dir)
    env, params = make_env(policy, scenario=scenario, difficulty=difficulty, num_agents=num_agents)
    return evaluate_policy(policy, env, params, episodes, seed)


def make_env(policy: Policy, **overrides: Any) -> tuple[Swarm, SwarmParams]:
    """The simulator of the policy's task, in which agents that arrive leave; overrides that are None do not count.

    Raises ValueError where it does not exist or its observations are not what the policy expects.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    env, params = dataclasses.replace(policy.task, **given).make(on_goal="terminate")
    if env.spec.obs_dim != policy.obs_dim:
        raise ValueError(f"observations have {env.spec.obs_dim} numbers here, the policy expects {policy.obs_dim}")
    return env, params


def evaluate_policy(
    policy: Policy, env: Swarm, params: SwarmParams, episodes: int, seed: int, report: Report = lambda message: None
) -> dict[str, Any]:
    """Figures of a policy over fresh worlds, each with its 95 % interval: sampled, and under `deterministic`."""
    check_counts(episodes, seed)
    size = min(episodes, max(1, CHUNK // (env.spec.num_agents * max(env.spec.num_agents, 64))))
    chunks = -(-episodes // size)
    keys = jax.vmap(episode_key, (None, 0))(seed, jnp.arange(chunks * size)).reshape(chunks, size)
    report("compiling")
    started = time.perf_counter()
    run = jax.jit(jax.vmap(partial(play, env), (None, None, 0, None))).lower(policy, params, keys[0], True).compile()
    compiled = time.perf_counter()
    played = {}
    for sampled in (True, False):
        parts = []
        for index, some in enumerate(keys):
            report(f"{'sampled' if sampled else 'deterministic'} episodes: {index * size} of {episodes}")
            parts.append(jax.device_get(run(policy, params, some, sampled)))
        played[sampled] = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:episodes], *parts)
    run_seconds = time.perf_counter() - compiled

    layouts, numpy_params = played[True].layout, jax.device_get(params)
    if not np.all(layouts.valid):
        raise ValueError(f"{np.sum(~layouts.valid)} of {episodes} layouts could not fit everything")
    shortest = np.empty(played[True].path.shape)
    for index in range(episodes):
        report(f"shortest paths: {index} of {episodes}")
        shortest[index] = shortest_paths(jax.tree.map(lambda leaf, i=index: leaf[i], layouts), numpy_params)
    max_steps = int(params.max_steps)
    return {
        **summarise(played[True], shortest, max_steps),
        "deterministic": summarise(played[False], shortest, max_steps),
        "episodes": episodes,
        "seed": seed,
        "scenario": env.scenario.name,
        "difficulty": int(params.difficulty),
        "num_agents": env.spec.num_agents,
        "max_steps": max_steps,
        "checkpoint_step": int(policy.step),
        "compile_seconds": round(compiled - started, 3),
        "run_seconds": round(run_seconds, 3),
        "device": jax.devices()[0].device_kind,
        "versions": {
            "entropy_env": __version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def check_counts(episodes: int, seed: int) -> None:
    if episodes < 1:
        raise ValueError(f"{episodes=} must be at least 1")
    if not 0 <= seed < 2**32:
        raise ValueError(f"{seed=} must be from 0 to {2**32 - 1}")


def summarise(episodes: Episode, shortest: np.ndarray, max_steps: int) -> dict[str, Interval]:
    """The figures of E episodes, each the mean over worlds of a mean over the agents of a world.

    shortest: (E, N) m. `steps_to_goal` counts the agents that arrived, in the worlds that have any.
    """
    reached, steps = episodes.reached, episodes.steps
    arrivals = reached.sum(axis=1)
    steps_to_goal = np.sum(steps, axis=1, where=reached) / np.maximum(arrivals, 1)
    return {
        "success": share_interval(reached.mean(axis=1)),
        "world_success": share_interval(reached.all(axis=1)),
        "collision_rate": share_interval(episodes.contacts.sum(axis=1) / steps.sum(axis=1)),
        "steps_to_goal": mean_interval(steps_to_goal[arrivals > 0], 1, max_steps),
        "spl": share_interval(spl(reached, shortest, episodes.path).mean(axis=1)),
        "return": mean_interval(episodes.total_reward.mean(axis=1)),
    }


def results_table(results: dict[str, Any]) -> Table:
    """Sampled and deterministic figures side by side."""
    task = "{scenario}, difficulty {difficulty}, {num_agents} agents, checkpoint {checkpoint_step}"
    sample = "{episodes} fresh worlds of seed {seed}, 95 % intervals over worlds"
    table = Table(title=task.format(**results), caption=sample.format(**results))
    for column in ("", "sampled", "deterministic"):
        table.add_column(column, justify="right" if column else "left")
    for name in results["deterministic"]:
        table.add_row(name, *(_figure(figures[name]) for figures in (results, results["deterministic"])))
    return table


def _figure(interval: Interval) -> str:
    mean, low, high = (
        "-" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}" for value in interval.values()
    )
    return f"{mean} ({low} to {high})"


def prepare(options: Options) -> tuple[Policy, Swarm, SwarmParams]:
    """What the options ask for, or an error that says what is wrong with them."""
    check_counts(options.episodes, options.seed)
    for path, suffix in ((options.gif, ".gif"), (options.mp4, ".mp4")):
        if path is not None and path.suffix.lower() != suffix:
            raise ValueError(f"--{suffix[1:]} {path} must end in {suffix}")
    if options.gif or options.mp4:
        Renderer()  # raises where pygame is missing
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        policy = load_policy(options.run_dir)
    for warning in caught:
        print(f"evaluate: warning: {warning.message}", file=sys.stderr)
    overrides = {name: getattr(options, name) for name in OVERRIDES}
    return policy, *make_env(policy, **overrides)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 2, with a message on stderr, for what cannot be evaluated."""
    options = tyro.cli(Options, args=argv, prog="python -m trainers.evaluate")
    try:
        policy, env, params = prepare(options)
    except (CheckpointError, OSError, ValueError, ModuleNotFoundError) as error:
        return _fail(error)
    cache_compilations()
    try:
        with Console(stderr=True).status("") as status:
            results = evaluate_policy(policy, env, params, options.episodes, options.seed, status.update)
        Console().print(results_table(results))
        write_atomic(options.run_dir / results_name(options), to_json(results, indent=2) + "\n")
        if options.gif or options.mp4:
            show(options, policy, env, params)
    except (OSError, ValueError, RuntimeError) as error:
        return _fail(error)
    return 0


def results_name(options: Options) -> str:
    """`evaluation.json`, or with other worlds than those of the run a name that tells which."""
    overrides = (getattr(options, name) for name in OVERRIDES)
    return "-".join(["evaluation", *(str(value) for value in overrides if value is not None)]) + ".json"


def show(options: Options, policy: Policy, env: Swarm, params: SwarmParams) -> None:
    """Write the videos that the options ask for."""
    states = film(env, policy, params, episode_key(options.seed, 0), sampled=not options.deterministic_video)
    for path in filter(None, (options.gif, options.mp4)):
        renderer = Renderer(trails=TRAIL)
        frames = (np.asarray(renderer.draw(state, params, title=env.scenario.name)) for state in states)
        write_video(path, frames, fps=min(1 / float(params.dt), MAX_GIF_FPS))


def _fail(error: Exception) -> int:
    print(f"evaluate: error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
