"""The loop that trains any `Learner`: update, check the figures, call the hooks, save.

Saving and stopping happen only between two updates, where a run can be interrupted and resumed bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp

from trainers.run.checkpoint import TRY_AGAIN, latest_step, leaves_by_name, save_checkpoint
from trainers.run.config import check_same_run, load_config, save_config
from trainers.run.devices import SpreadUpdate, load_leaves
from trainers.run.files import Patience, to_json, write_atomic
from trainers.run.folder import RunFolder
from trainers.run.hooks import Hook, Hooks, Moment
from trainers.run.interrupt import Interrupt
from trainers.run.options import RunOptions
from trainers.run.stopping import RETURN, SUCCESS
from trainers.run.terminal import say
from trainers.track.progress import Progress, figures_line
from trainers.track.system import system_metrics
from trainers.track.tracker import Histogram, numbers
from trainers.track.tracking import Tracking, check_installed

State = TypeVar("State")
SUMMARY = "summary.json"
REWARD = "train/reward_mean"
WATCHED = REWARD, "loss/policy", "loss/value", "loss/weight_norm"  # figures that must be finite, if they are reported
MEANS = dict([RETURN, SUCCESS, ("train/episode_length", RETURN[1])])  # over ended episodes, and what counts these


class TrainingDivergedError(ArithmeticError):
    """A loss, the reward or the weights are no longer finite."""

    def __init__(self, what: str, when: str, stays: str) -> None:
        hint = "A lower --learning-rate or --max-grad-norm may help"
        if what.startswith(REWARD):
            hint = "Look at the reward terms, their weights and the parameters of the worlds"
        super().__init__(f"{what} {when}; {stays}. {hint}")


class Learner(Protocol[State]):
    """An algorithm with its configuration and its environment."""

    @property
    def steps_per_update(self) -> int:
        """The number of agent steps per update, over all lanes."""

    def init(self, key: jax.Array, inputs: Any) -> State:
        """Return the state before the first update. It holds all that later updates need, and a checkpoint keeps it."""

    def update(self, state: State, inputs: Any) -> tuple[State, Mapping[str, jax.Array]]:
        """Do one update. Returns the new state and the figures, () each. Jitted, with the state donated.

        A figure may also be counts (K,) int32 of the numbers 0 to K - 1, which becomes a histogram.
        inputs: values that may change between updates without compiling again, such as environment parameters.
        """


class Keeper:
    """Writes and reads the checkpoints of a run: the learner's state, inputs that hooks have replaced, hooks' states.

    Inputs that no hook has replaced are not kept: the options of the run make them again.
    """

    def __init__(self, folder: RunFolder, metadata: Mapping[str, Any], inputs: Any, hooks: Hooks, keep: int) -> None:
        """keep: the number of checkpoints to keep."""
        self.folder, self._run, self._keep = folder.checkpoints, folder.path, keep
        self._metadata, self._hooks, self._inputs = metadata, hooks, leaves_by_name(inputs)

    def save(self, moment: Moment) -> None:
        """Write a checkpoint. Raises OSError."""
        self._write(moment, self.folder, self._keep)

    def save_named(self, moment: Moment) -> None:
        """Write the checkpoint that a hook asked for. Raises OSError."""
        assert moment.kept_as is not None
        self._write(moment, self.folder / moment.kept_as, 1)

    def _write(self, moment: Moment, folder: Path, keep: int) -> None:
        inputs = leaves_by_name(moment.inputs).items()
        tree = leaves_by_name(moment.state)
        tree["inputs"] = {name: leaf for name, leaf in inputs if leaf is not self._inputs[name]}
        states = {"hooks": self._hooks.states} if self._hooks.states else {}
        save_checkpoint(folder, tree, moment.step, {**self._metadata, **states}, keep=keep)

    def load(self, learner: Learner, state: Any, inputs: Any) -> Moment:
        """Return the moment of the newest checkpoint, and restore the hooks. state, inputs: those of a new run."""
        like = leaves_by_name(state) | {"inputs": leaves_by_name(inputs)}
        tree, about = load_leaves(learner, self.folder, like)
        self._hooks.restore(about.get("hooks", {}))
        return Moment(about["step"], _refill(state, tree), _refill(inputs, tree["inputs"]), {}, self._run)


def _refill(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """Return a tree with other leaves, given by name."""
    return jax.tree.unflatten(jax.tree.structure(tree), [leaves[name] for name in leaves_by_name(tree)])


def fit(
    learner: Learner[State], inputs: Any, options: RunOptions, folder: RunFolder, metadata: dict[str, Any],
    hooks: Sequence[Hook] = (),
) -> Moment:  # fmt: skip
    """Train to `options.total_steps`. With `options.resume`, go on from the newest checkpoint in the folder.

    metadata: describes the policy in the checkpoints. hooks: called in this order after every update, before its figures
    go to the files and the terminal. Returns the last moment. Its `stopped` says why hooks ended the run, its
    `interrupted` whether Ctrl-C did.
    Raises the errors of `check_same_run`, `load_checkpoint` and, once the run is saved, of the hooks, OSError if the last
    checkpoint cannot be written, TrainingDivergedError as soon as a loss or the weights are not finite,
    ModuleNotFoundError for a tracker that is not installed.
    """
    check_installed(options.trackers)
    per_update = learner.steps_per_update
    total = -(-options.total_steps // per_update) * per_update
    with jax.enable_x64(False), Interrupt() as interrupt:  # with 64 bits, optax would compute other numbers
        inputs = jax.tree.map(jnp.asarray, inputs)  # nobody can write into them, so a replaced one is another object
        calls = Hooks(hooks)
        keeper = Keeper(folder, metadata, inputs, calls, options.keep_checkpoints)
        moment = _begin(learner, inputs, options, folder, keeper)
        say(f"{'Resuming' if options.resume else 'Training'} {folder.path} on {jax.devices()[0].device_kind}, "
            f"{moment.step:,} of {total:,} agent steps done")  # fmt: skip
        if moment.step >= total:
            say("Nothing left to train; more --total-steps would go on from here.")
            return moment
        resumed_from = moment.step if options.resume else None
        tracking = Tracking(folder.path, options.trackers, options.track_project, resumed_from)
        with tracking, Progress(total, moment.step) as bar:  # trackers begin while the update compiles
            update, seconds = compile_update(learner, moment.state, moment.inputs)
            say(f"Compiled in {seconds:.1f} s")
            saved, patience, named = moment.step, Patience(), Patience()
            while moment.step < total and not moment.ended:
                moment = _advance(update, moment, per_update, folder.checkpoints)
                failure = calls.call(moment)
                tracking.log(moment.step, moment.metrics)
                if options.verbose:
                    say(figures_line(moment.step, moment.metrics))
                bar.update(
                    moment.step,
                    fps=moment.metrics["train/fps"],
                    success=moment.metrics.get("env/goal_reached_rate", math.nan),
                    episode_return=moment.metrics.get("train/episode_return", math.nan),
                )
                moment.interrupted = interrupt.asked and moment.step < total and moment.stopped is None
                if moment.kept_as:
                    save = partial(keeper.save_named, moment)
                    named.try_to(save, f"checkpoints/{moment.kept_as}", "training goes on")
                if failure or moment.step >= total or moment.ended:
                    _save_last(keeper, moment, failure)
                    write_summary(folder.path, moment)
                elif moment.step - saved >= options.checkpoint_interval:
                    save = partial(keeper.save, moment)
                    written = patience.try_to(save, f"the checkpoint at {moment.step:,} steps", TRY_AGAIN)
                    saved = moment.step if written else saved
            tracking.converged = moment.stopped is not None  # a hook found that the run is done
    return moment


def _begin(learner: Learner, inputs: Any, options: RunOptions, folder: RunFolder, keeper: Keeper) -> Moment:
    """Return the moment to begin with. Writes the options, and a new run's first checkpoint."""
    moment = Moment(0, learner.init(jax.random.key(options.seed), inputs), inputs, {}, folder.path)
    if options.resume:
        kept = load_config(type(options), folder.config, whole=True)
        check_same_run(dataclasses.asdict(kept), options, options.MAY_CHANGE, str(options.run_dir))
        moment = keeper.load(learner, moment.state, inputs)
        (folder.path / SUMMARY).unlink(missing_ok=True)
    save_config(folder.config, dataclasses.replace(options, run_dir=folder.path, resume=False))
    if not options.resume:
        keeper.save(moment)
    return moment


def _advance(update: Callable, before: Moment, per_update: int, checkpoints: Path) -> Moment:
    """Do one more update, and return the moment after it. Raises TrainingDivergedError."""
    started = time.perf_counter()
    state, metrics = update(before.state, before.inputs)
    metrics = {name: _as_figure(value) for name, value in jax.device_get(metrics).items()}
    step = before.step + per_update
    for name in WATCHED:
        if not math.isfinite(metrics.get(name, 0.0)):
            stays = f"the last good checkpoint stays in {checkpoints}"
            raise TrainingDivergedError(f"{name} is {metrics[name]}", f"at update {step // per_update}", stays)
    metrics = {name: value for name, value in metrics.items() if metrics.get(MEANS.get(name), 1)}  # no mean of nothing
    elapsed = time.perf_counter() - started
    metrics |= {"train/fps": per_update / elapsed, "train/sps": 1 / elapsed, **system_metrics()}
    return Moment(step, state, before.inputs, metrics, before.folder)


def _as_figure(value: Any) -> Any:
    """Convert a figure to float, and counts (K,) to the histogram of the numbers 0 to K - 1."""
    if not value.ndim:
        return float(value)
    return Histogram(value.tolist(), [k - 0.5 for k in range(len(value) + 1)])


def compile_update(learner: Learner[State], state: State, inputs: Any) -> tuple[Callable, float]:
    """Compile the update. Returns it and the seconds that took."""
    started = time.perf_counter()
    compiled: Callable
    if getattr(learner, "mesh", None) is not None:
        compiled = SpreadUpdate(learner, state, inputs)
    else:
        compiled = type(learner).update.lower(learner, state, inputs).compile()  # type: ignore[attr-defined]
    return compiled, time.perf_counter() - started


def write_summary(folder: Path, moment: Moment) -> None:
    """Write `summary.json`: the steps done, why the run ended before all of them, and the last figures."""
    about = {name: getattr(moment, name) for name in ("step", "stopped", "interrupted")}
    about["metrics"] = numbers(moment.metrics)
    write = partial(write_atomic, folder / SUMMARY, to_json(about, indent=2) + "\n")
    Patience().try_to(write, SUMMARY, "metrics.jsonl has the figures")


def _save_last(keeper: Keeper, moment: Moment, failure: BaseException | None) -> None:
    """Write the last checkpoint of a process. Then raises the failure of a hook, if there is one.

    Otherwise raises OSError, saying from which step `--resume` would go on, if the checkpoint cannot be written.
    """
    try:
        keeper.save(moment)
    except OSError as error:
        lost = f"{error}: not saved; --resume goes on from step {latest_step(keeper.folder):,}"
        if failure is None:
            raise OSError(lost) from error
        failure.add_note(lost)
    if failure is not None:
        raise failure
