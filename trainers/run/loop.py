"""The host loop of every learner of our own: update, check the figures, call the hooks, save.

Everything happens between two updates, since only there a run can be cut and go on bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax

from trainers.run.checkpoint import TRY_AGAIN, latest_step, load_checkpoint, save_checkpoint
from trainers.run.config import check_same_run, load_config, save_config
from trainers.run.files import Patience
from trainers.run.folder import RunFolder
from trainers.run.interrupt import Interrupt
from trainers.run.options import RunOptions
from trainers.run.terminal import say
from trainers.track.loggers import MetricsLogger
from trainers.track.progress import Progress
from trainers.track.system import system_metrics

State = TypeVar("State")
WATCHED = "loss/policy", "loss/value", "loss/weight_norm"  # figures that must be finite, where a learner has them


class TrainingDivergedError(ArithmeticError):
    """A loss or the weights are no longer finite."""

    def __init__(self, what: str, when: str, stays: str) -> None:
        super().__init__(f"{what} {when}; {stays}. A lower --learning-rate or --max-grad-norm may help")


class Learner(Protocol[State]):
    """An algorithm with its configuration and its environment."""

    @property
    def steps_per_update(self) -> int:
        """Agent steps, over all lanes."""

    def init(self, key: jax.Array, inputs: Any) -> State:
        """The state before the first update: everything that training carries on and a checkpoint keeps."""

    def update(self, state: State, inputs: Any) -> tuple[State, Mapping[str, jax.Array]]:
        """One update and its figures, () each. Jitted, with the state donated.

        inputs: what may change between updates without a compilation, such as environment parameters.
        """


@dataclasses.dataclass
class Moment:
    """What a hook is told after an update."""

    step: int  # agent steps done
    state: Any  # the learner's; the next update takes its memory, so copy what is to be kept
    inputs: Any  # of the next update; a hook may replace it by one of the same shapes
    metrics: dict[str, float]  # a hook may add to it, for those after it and for the files
    stopped: str | None = None  # why the run ends here

    def stop(self, why: str) -> None:
        """End the run after this update, once it is saved."""
        self.stopped = why


Hook = Callable[[Moment], None]


def fit(
    learner: Learner[State], inputs: Any, options: RunOptions, folder: RunFolder, metadata: dict[str, Any],
    hooks: Sequence[Hook] = (),
) -> Moment:  # fmt: skip
    """Train to `options.total_steps`, or go on to there from the newest checkpoint of the folder.

    metadata: what the checkpoints say of the policy. hooks: called after every update, in this order; then its figures go
    to the files and onto the terminal. Returns the last moment; `stopped` says why, if the run ended early.
    Raises what `check_same_run`, `load_checkpoint` and the hooks raise, OSError where the last checkpoint cannot be
    written, and TrainingDivergedError as soon as a loss is not finite.
    """
    per_update = learner.steps_per_update
    total = -(-options.total_steps // per_update) * per_update
    with jax.enable_x64(False), Interrupt() as interrupt:  # with 64 bits optax would correct moments in other numbers
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
        with contextlib.ExitStack() as stack:
            lines = stack.enter_context(MetricsLogger(folder.path, done if options.resume else None))
            bar = stack.enter_context(Progress(total, done))
            while moment.step < total and not moment.stopped:
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
                if interrupt.asked and moment.step < total:
                    moment.stop("interrupted")
                save = partial(save_checkpoint, folder.checkpoints, moment.state, moment.step, metadata)
                if moment.step >= total or moment.stopped:
                    _save_last(save, folder.checkpoints)
                elif moment.step - saved >= options.checkpoint_interval:
                    written = patience.try_to(save, f"the checkpoint at {moment.step:,} steps", TRY_AGAIN)
                    saved = moment.step if written else saved
    return moment


def _begin(
    learner: Learner[State], inputs: Any, options: RunOptions, folder: RunFolder, metadata: dict[str, Any]
) -> tuple[State, int]:
    """The state to go on from, and the agent steps done. The folder then holds the options and a checkpoint."""
    state, done = learner.init(jax.random.key(options.seed), inputs), 0
    if options.resume:
        kept = load_config(type(options), folder.config, whole=True)
        check_same_run(dataclasses.asdict(kept), options, options.MAY_CHANGE, str(options.run_dir))
        state, about = load_checkpoint(folder.checkpoints, state)
        done = about["step"]
    save_config(folder.config, dataclasses.replace(options, run_dir=folder.path, resume=False))
    if not options.resume:
        save_checkpoint(folder.checkpoints, state, 0, metadata)
    return state, done


def _advance(update: Callable, before: Moment, per_update: int, checkpoints: Path) -> Moment:
    """The moment after one more update."""
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
    """The compiled update, and the seconds that took."""
    started = time.perf_counter()
    compiled = type(learner).update.lower(learner, state, inputs).compile()  # type: ignore[attr-defined]
    return compiled, time.perf_counter() - started


def _save_last(save: Callable[[], object], checkpoints: Path) -> None:
    """Write the checkpoint that ends a process, or an OSError that says from where the next one goes on."""
    try:
        save()
    except OSError as error:
        raise OSError(f"{error}: not saved; --resume goes on from step {latest_step(checkpoints):,}") from error
