"""Evaluate the policy of a run on worlds that it has never seen.

    python -m trainers.evaluate runs/open --episodes 256 --gif open.gif
    python -m trainers.evaluate models/swarm_1.zip
    python -m trainers.evaluate runs/open --show --against models/swarm_1.zip

Every world is one episode, in which agents that arrive leave. The keys of worlds come from `--seed` and a constant that
no trainer uses, so no seed repeats a world of training. World i of a seed is the same for any number of episodes.
Actions are sampled, as in training. The figures of the mean action in the same worlds are reported beside them. Where robots
talk, it also reports what their words are worth, unless --no-words is given. The figures are printed and written to
`evaluation.json` in the run folder.

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
from trainers.evaluation.figures import Report, check_counts, check_fits, evaluate_policy, ignore, results_table
from trainers.evaluation.film import write_film
from trainers.evaluation.play import episode_key, film, live
from trainers.evaluation.player import Player, Side
from trainers.evaluation.words import evaluate_words, words_table
from trainers.policies import Policy, load_policy
from trainers.run.checkpoint import CheckpointError
from trainers.run.compilation import cache_compilations
from trainers.run.files import to_json, write_atomic
from trainers.run.terminal import say, warnings_as_lines

__all__ = ["Policy", "evaluate", "evaluate_policy", "load_policy"]

OVERRIDES = ("scenario", "difficulty", "num_agents")  # options that replace settings of the run's worlds


@dataclasses.dataclass(frozen=True)
class Options:
    """Evaluate the policy of a run on fresh worlds. Prints the figures and writes them to RUN_DIR/evaluation.json. With
    --scenario, --difficulty or --num-agents the name of the file says so."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of a run, whose newest checkpoint is evaluated, or a zip written by trainers.sb3_lstm."""
    best: bool = False
    """Take the checkpoint of the best evaluation in the training instead, which --eval-interval keeps."""
    episodes: int = 256
    """Number of worlds. Each is one episode."""
    seed: int = 0
    """Seed of the worlds and of the sampled actions."""
    scenario: str | None = None
    """Scenario to use instead of the run's."""
    difficulty: int | None = None
    """Difficulty to use instead of the run's, 1 to 4."""
    num_agents: int | None = None
    """Number of agents to use instead of the run's."""
    words: bool = True
    """Where robots talk, also report what their words are worth: success with words cut off, shuffled and made up, with words
    that get lost or reach less far, and how much is said."""
    gif: Path | None = None
    """Write the first episode as a GIF to this file."""
    mp4: Path | None = None
    """Write the first episode as an MP4 to this file."""
    deterministic_video: bool = False
    """Use mean actions instead of sampled ones in the video or the window."""
    show: bool = False
    """Play in a window instead, and write no files. Space pauses and goes on. The arrow keys go one step on or back.
    + and - change the speed. R begins a new world. L shows the lidar. T hides the trails. Escape ends.
    Click on a robot to follow it, and beside all robots to stop following."""
    against: Path | None = None
    """With --show: another run folder or zip, played beside the first in the same worlds."""


def evaluate(
    run_dir: str | os.PathLike[str],
    episodes: int = 256,
    *,
    seed: int = 0,
    scenario: str | None = None,
    difficulty: int | None = None,
    num_agents: int | None = None,
    best: bool = False,
    words: bool = True,
) -> dict[str, Any]:
    """Return the figures that the command prints and writes. Raises ValueError and the errors of `load_policy`.

    words: where robots talk, also report what their words are worth, as `words`.
    """
    policy = load_policy(run_dir, best=best)
    env, params = make_env(policy, scenario=scenario, difficulty=difficulty, num_agents=num_agents)
    return compute(policy, env, params, episodes, seed, words)


def compute(
    policy: Policy, env: Swarm, params: SwarmParams, episodes: int, seed: int, words: bool, report: Report = ignore
) -> dict[str, Any]:
    """Return the figures of a policy and, where robots talk, those of their words, if they are asked for."""
    results = evaluate_policy(policy, env, params, episodes, seed, report)
    if words and env.spec.talks:
        results["words"] = evaluate_words(policy, env, params, episodes, seed, report)
    return results


def make_env(policy: Policy, **overrides: Any) -> tuple[Swarm, SwarmParams]:
    """Return the simulator of the policy's task and its parameters. Agents that arrive leave.

    overrides: settings to use instead of the task's; None changes nothing. Raises ValueError if such worlds are
    impossible, or if the policy was trained with other words, or observations of another size.
    """
    if policy.task is None:
        raise ValueError("this policy was trained in no swarm: the figures of its run are in evaluation.json")
    env, params = policy.task.but(**overrides).make(on_goal="terminate")
    check_fits(policy, env)
    return env, params


def prepare(options: Options) -> tuple[Policy, Swarm, SwarmParams]:
    """Check the options, and load the policy. Returns it, the simulator and its parameters."""
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
        Renderer()  # raises if pygame is missing
    policy = load_policy(options.run_dir, best=options.best)
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
    """Run the command line. Returns the exit status: 2, with a message on stderr, if the evaluation is impossible."""
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
                about = policy, env, params, options.episodes, options.seed, options.words
                results = compute(*about, status.update)
            Console().print(results_table(results))
            if "words" in results:
                Console().print(words_table(results["words"]))
            write_atomic(results_path(options), to_json(results, indent=2) + "\n")
            if options.gif or options.mp4:
                show(options, policy, env, params)
        except (CheckpointError, OSError, ValueError, RuntimeError, ModuleNotFoundError) as error:
            return _fail(error)
    return 0


def results_path(options: Options) -> Path:
    """Return the file to write: `evaluation.json` in a run folder, or `NAME-evaluation.json` beside a zip NAME.

    With other worlds than the run's, the name says which, as in `evaluation-rooms-2.json`, and with --best that.
    """
    overrides = (getattr(options, name) for name in OVERRIDES)
    name = (
        "-".join(["evaluation", *["best"] * options.best, *(str(value) for value in overrides if value is not None)])
        + ".json"
    )
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
    """Return a policy as a side of `Player`."""
    title = f"{env.scenario.name} {int(params.difficulty)}"
    return Side(str(path), title, env.spec, params, live(policy, env, params))


def show(options: Options, policy: Policy, env: Swarm, params: SwarmParams) -> None:
    """Write the videos that the options ask for."""
    time_steps = film(policy, env, params, episode_key(options.seed, 0), sampled=not options.deterministic_video)
    for path in filter(None, (options.gif, options.mp4)):
        write_film(path, time_steps, env.spec, params, env.scenario.name)


def _fail(error: Exception) -> int:
    say(f"evaluate: error: {error}", sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
