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

from trainers.run.checkpoint import TRY_AGAIN, latest_step, save_checkpoint
from trainers.run.config import check_same_run, load_config, save_config
from trainers.run.devices import SpreadUpdate, load_state
from trainers.run.files import Patience
from trainers.run.folder import RunFolder
from trainers.run.interrupt import Interrupt
from trainers.run.options import RunOptions
from trainers.run.terminal import say
from trainers.track.loggers import MetricsLogger
from trainers.track.progress import Progress
from trainers.track.system import system_metrics

State = TypeVar("State")
WATCHED = "loss/policy", "loss/value", "loss/weight_norm"  # figures that must be finite, if the learner reports them


class TrainingDivergedError(ArithmeticError):
    """A loss or the weights are no longer finite."""

    def __init__(self, what: str, when: str, stays: str) -> None:
        super().__init__(f"{what} {when}; {stays}. A lower --learning-rate or --max-grad-norm may help")


class Learner(Protocol[State]):
    """An algorithm with its configuration and its environment."""

    @property
    def steps_per_update(self) -> int:
        """The number of agent steps per update, over all lanes."""

    def init(self, key: jax.Array, inputs: Any) -> State:
        """Return the state before the first update. It holds all that later updates need, and a checkpoint keeps it."""

    def update(self, state: State, inputs: Any) -> tuple[State, Mapping[str, jax.Array]]:
        """Do one update. Returns the new state and the figures, () each. Jitted, with the state donated.

        inputs: values that may change between updates without compiling again, such as environment parameters.
        """


@dataclasses.dataclass
class Moment:
    """The run after an update, as hooks see it."""

    step: int  # agent steps done
    state: Any  # the learner's; the next update reuses its memory, so copy what you keep
    inputs: Any  # of the next update; a hook may replace it by another of the same shapes, which no checkpoint keeps
    metrics: dict[str, float]  # a hook may add figures; later hooks see them, and the files get them
    stopped: str | None = None  # why the run ends here, or None

    def stop(self, why: str) -> None:
        """End the run after this update, once it is saved."""
        self.stopped = why


Hook = Callable[[Moment], None]


def fit(
    learner: Learner[State], inputs: Any, options: RunOptions, folder: RunFolder, metadata: dict[str, Any],
    hooks: Sequence[Hook] = (),
) -> Moment:  # fmt: skip
    """Train to `options.total_steps`. With `options.resume`, go on from the newest checkpoint in the folder.

    metadata: describes the policy in the checkpoints. hooks: called in this order after every update, before its figures
    go to the files and the terminal. Returns the last moment. Its `stopped` says why a run ended early.
    Raises the errors of `check_same_run`, `load_checkpoint` and the hooks, OSError if the last checkpoint cannot be
    written, TrainingDivergedError as soon as a loss or the weights are not finite.
    """
    per_update = learner.steps_per_update
    total = -(-options.total_steps // per_update) * per_update
    with jax.enable_x64(False), Interrupt() as interrupt:  # with 64 bits, optax would compute other numbers
        state, done = _begin(learner, inputs, options, folder, metadata)
        say(f"{'Resuming' if options.resume else 'Training'} {folder.path} on {jax.devices()[0].device_kind}, {done:,} "
            f"of {total:,} agent steps done")  # fmt: skip
        moment = Moment(done, state, inputs, {})
        if done >= total:
            say("Nothing left to train; more --total-steps would go on from here.")
            return moment
        update, seconds = compile_update(learner, state, inputs)
        say(f"Compiled in {seconds:.1f} s")
        saved, patience = done, Patience()
        with (
            MetricsLogger(folder.path, done if options.resume else None) as lines,
            Progress(total, done) as bar,
        ):
            while moment.step < total and moment.stopped is None:
                moment = _advance(update, moment, per_update, folder.checkpoints)
                for hook in hooks:
                    hook(moment)
                lines.log(moment.step, moment.metrics)
                bar.update(
                    moment.step,
                    fps=moment.metrics["train/fps"],
                    success=moment.metrics.get("env/goal_reached_rate", math.nan),
                    episode_return=moment.metrics.get("train/episode_return", math.nan),
                )
                if interrupt.asked and moment.step < total and moment.stopped is None:
                    moment.stop("interrupted")
                save = partial(save_checkpoint, folder.checkpoints, moment.state, moment.step, metadata)
                if moment.step >= total or moment.stopped is not None:
                    _save_last(save, folder.checkpoints)
                elif moment.step - saved >= options.checkpoint_interval:
                    written = patience.try_to(save, f"the checkpoint at {moment.step:,} steps", TRY_AGAIN)
                    saved = moment.step if written else saved
    return moment


def _begin(
    learner: Learner[State], inputs: Any, options: RunOptions, folder: RunFolder, metadata: dict[str, Any]
) -> tuple[State, int]:
    """Return the state to begin with and the agent steps done. Writes the options, and a new run's first checkpoint."""
    state, done = learner.init(jax.random.key(options.seed), inputs), 0
    if options.resume:
        kept = load_config(type(options), folder.config, whole=True)
        check_same_run(dataclasses.asdict(kept), options, options.MAY_CHANGE, str(options.run_dir))
        state, about = load_state(learner, folder.checkpoints, state)
        done = about["step"]
    save_config(folder.config, dataclasses.replace(options, run_dir=folder.path, resume=False))
    if not options.resume:
        save_checkpoint(folder.checkpoints, state, 0, metadata)
    return state, done


def _advance(update: Callable, before: Moment, per_update: int, checkpoints: Path) -> Moment:
    """Do one more update, and return the moment after it. Raises TrainingDivergedError."""
    started = time.perf_counter()
    state, metrics = update(before.state, before.inputs)
    metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
    step = before.step + per_update
    for name in WATCHED:
        if not math.isfinite(metrics.get(name, 0.0)):
            stays = f"the last good checkpoint stays in {checkpoints}"
            raise TrainingDivergedError(f"{name} is {metrics[name]}", f"at update {step // per_update}", stays)
    elapsed = time.perf_counter() - started
    metrics |= {"train/fps": per_update / elapsed, "train/sps": 1 / elapsed, **system_metrics()}
    return Moment(step, state, before.inputs, metrics)


def compile_update(learner: Learner[State], state: State, inputs: Any) -> tuple[Callable, float]:
    """Compile the update. Returns it and the seconds that took."""
    started = time.perf_counter()
    compiled: Callable
    if getattr(learner, "mesh", None) is not None:
        compiled = SpreadUpdate(learner, state, inputs)
    else:
        compiled = type(learner).update.lower(learner, state, inputs).compile()  # type: ignore[attr-defined]
    return compiled, time.perf_counter() - started


def _save_last(save: Callable[[], object], checkpoints: Path) -> None:
    """Write the last checkpoint of a process. Raises OSError that says from which step `--resume` would go on."""
    try:
        save()
    except OSError as error:
        raise OSError(f"{error}: not saved; --resume goes on from step {latest_step(checkpoints):,}") from error
