"""How well the policy of a run does on worlds it has never seen.

    python -m trainers.evaluate runs/open --episodes 256 --gif open.gif
    python -m trainers.evaluate models/swarm_1.zip
    python -m trainers.evaluate runs/open --show --against models/swarm_1.zip

Every world is one episode, in which agents that arrive leave. Its key is folded out of `--seed` by a constant that no
trainer uses, so that no seed repeats a world of training; world i of a seed is the same however many are evaluated.
Actions are sampled, as in training; what the mean action achieves in the same worlds stands beside. The figures are
printed and written to `evaluation.json` in the run folder.

`--show` plays the same episodes in a window instead, one after the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from entropy_env.env import Swarm
from entropy_env.render import Renderer
from entropy_env.render.video import check_video_path
from entropy_env.types import SwarmParams
from trainers.evaluation.figures import check_counts, evaluate_policy, results_table
from trainers.evaluation.film import write_film
from trainers.evaluation.play import episode_key, film, live
from trainers.evaluation.player import Player, Side
from trainers.policies import Policy, load_policy
from trainers.run.checkpoint import CheckpointError
from trainers.run.compilation import cache_compilations
from trainers.run.files import to_json, write_atomic
from trainers.run.terminal import say, warnings_as_lines

__all__ = ["Policy", "evaluate", "evaluate_policy", "load_policy"]

OVERRIDES = ("scenario", "difficulty", "num_agents")  # of the worlds of the run


@dataclasses.dataclass(frozen=True)
class Options:
    """Evaluate the policy of a run on fresh worlds, print the figures and write them to RUN_DIR/evaluation.json; with
    other worlds than those of the run, beside it."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of the run, whose newest checkpoint is evaluated, or the zip of a model of trainers.sb3_lstm."""
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
    """Draw, or show, with the mean action instead of sampled ones."""
    show: bool = False
    """Play in a window instead, and write nothing. Space pauses and goes on; the right and left arrow keys go a step
    forward and back; + and - change the speed; R takes a new world; L draws what the lidars see; T hides the trails; a
    click follows a robot, beside all robots it ends that; Escape, or closing the window, ends."""
    against: Path | None = None
    """With --show: another run folder or zip, played beside it in the same worlds."""


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
    env, params = policy.task.but(**overrides).make(on_goal="terminate")
    if env.spec.obs_dim != policy.obs_dim:
        raise ValueError(f"observations have {env.spec.obs_dim} numbers here, the policy expects {policy.obs_dim}")
    return env, params


def prepare(options: Options) -> tuple[Policy, Swarm, SwarmParams]:
    """What the options ask for, or an error that says what is wrong with them."""
    check_counts(options.episodes, options.seed)
    for path, suffix in ((options.gif, ".gif"), (options.mp4, ".mp4")):
        if path is not None:
            if path.suffix.lower() != suffix:
                raise ValueError(f"--{suffix[1:]} {path} must end in {suffix}")
            check_video_path(path)
    if options.against and not options.show:
        raise ValueError(f"--against {options.against} needs --show")
    if options.show and (options.gif or options.mp4):
        raise ValueError("--show writes nothing: leave out either it or --gif and --mp4")
    if options.show:
        _check_display()
    if options.gif or options.mp4:
        Renderer()  # raises where pygame is missing
    policy = load_policy(options.run_dir)
    overrides = {name: getattr(options, name) for name in OVERRIDES}
    return policy, *make_env(policy, **overrides)


def _check_display() -> None:
    try:
        Renderer("human").close()
    except RuntimeError as error:
        raise ValueError(
            f"--show opens a window: {error.__cause__}; --gif FILE draws an episode without one"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 2, with a message on stderr, for what cannot be evaluated."""
    options = tyro.cli(Options, args=argv, prog="python -m trainers.evaluate")
    with warnings_as_lines("evaluate: warning"):
        try:
            policy, env, params = prepare(options)
        except (CheckpointError, OSError, ValueError, ModuleNotFoundError) as error:
            return _fail(error)
        cache_compilations()
        try:
            if options.show:
                watch(options, policy, env, params)
                return 0
            with Console(stderr=True).status("") as status:
                results = evaluate_policy(policy, env, params, options.episodes, options.seed, status.update)
            Console().print(results_table(results))
            write_atomic(results_path(options), to_json(results, indent=2) + "\n")
            if options.gif or options.mp4:
                show(options, policy, env, params)
        except (CheckpointError, OSError, ValueError, RuntimeError, ModuleNotFoundError) as error:
            return _fail(error)
    return 0


def results_path(options: Options) -> Path:
    """`evaluation.json` in the run folder, beside a zip NAME-evaluation.json; with other worlds than those of the run the
    name tells which."""
    overrides = (getattr(options, name) for name in OVERRIDES)
    name = "-".join(["evaluation", *(str(value) for value in overrides if value is not None)]) + ".json"
    path = options.run_dir
    return path.with_name(f"{path.stem}-{name}") if path.suffix == ".zip" else path / name


def watch(options: Options, policy: Policy, env: Swarm, params: SwarmParams) -> None:
    """Play in a window until it is closed."""
    with contextlib.suppress(KeyboardInterrupt), Console(stderr=True).status("compiling") as status:
        sides = [side(options.run_dir, policy, env, params)]
        if options.against:
            other = load_policy(options.against)
            worlds = {name: getattr(options, name) or getattr(policy.task, name) for name in OVERRIDES}
            sides.append(side(options.against, other, *make_env(other, **worlds)))
        player = Player(sides, options.seed, sampled=not options.deterministic_video)
        status.stop()
        player.run()


def side(path: Path, policy: Policy, env: Swarm, params: SwarmParams) -> Side:
    """A policy as `Player` shows it."""
    title = f"{env.scenario.name} {int(params.difficulty)}"
    return Side(str(path), title, env.spec, params, live(policy, env, params))


def show(options: Options, policy: Policy, env: Swarm, params: SwarmParams) -> None:
    """Write the videos that the options ask for."""
    states = film(policy, env, params, episode_key(options.seed, 0), sampled=not options.deterministic_video)
    for path in filter(None, (options.gif, options.mp4)):
        write_film(path, states, params, env.scenario.name)


def _fail(error: Exception) -> int:
    say(f"evaluate: error: {error}", sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
