"""Callbacks of SB3's loop: figures, checkpoints, the curriculum and the weight of the entropy bonus.

All but the last act between an update and the next rollout, where a training can be interrupted and resumed exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from trainers.run.checkpoint import TRY_AGAIN
from trainers.run.curriculum import Curriculum
from trainers.run.files import Patience
from trainers.run.hooks import Hooks, Moment
from trainers.run.loop import TrainingDivergedError
from trainers.run.stopping import EPISODES
from trainers.run.terminal import say
from trainers.track.dashboard import Dashboard
from trainers.track.progress import figures_line
from trainers.track.system import system_metrics
from trainers.track.tracker import numbers
from trainers.track.tracking import Tracking

NAMES = {  # SB3's name of a figure, and our name
    "train/loss": "loss/total",
    "train/policy_gradient_loss": "loss/policy",
    "train/value_loss": "loss/value",
    "train/explained_variance": "loss/explained_variance",
    "train/approx_kl": "loss/approx_kl",
    "train/clip_fraction": "loss/clip_fraction",
    "train/std": "train/std",
    "train/learning_rate": "train/learning_rate",
    "train/ent_coef": "train/ent_coef",
}
GLANCE = 0.25  # s between two updates of the progress bar


def diverged(what: str, steps: int) -> TrainingDivergedError:
    """Return the error for a loss or weights that are no longer finite."""
    return TrainingDivergedError(what, f"at {steps:,} steps", "a checkpoint stays as it is")


class BetweenUpdates(BaseCallback):
    """Calls `between` after each update: before the next rollout, or at the end of the training."""

    def _on_training_start(self) -> None:
        self._learnt_from = self.num_timesteps

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps > self._learnt_from:
            self.between()
        self.before_rollout()

    def _on_training_end(self) -> None:
        if self.model.num_timesteps > self._learnt_from:
            self.between()

    def _on_step(self) -> bool:
        return True

    def between(self) -> None:
        """Act after an update."""

    def before_rollout(self) -> None:
        """Act before a rollout."""


class EndedError(Exception):
    """Leaves SB3's loop between two updates, because a hook has ended the training."""


class Figures(BetweenUpdates):
    """Calls the hooks after each update, and takes the figures to the files, the trackers and the dashboard.

    Hooks get the model as `state`, and no inputs. Raises the error of a hook, and EndedError if one ends the training.
    """

    def __init__(
        self, tracking: Tracking, dashboard: Dashboard, hooks: Hooks, folder: Path,
        after: Callable[[Moment, BaseException | None], None], verbose: bool,
    ) -> None:  # fmt: skip
        """after: called after the hooks, with the moment and the error of a hook, to save what is to be saved."""
        super().__init__()
        self._tracking, self._dashboard = tracking, dashboard
        self._hooks, self._folder, self._after, self._show = hooks, folder, after, verbose
        self._looked = 0.0

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._begun = self._since = time.perf_counter()
        self._first = self._steps = self.model.num_timesteps

    def _on_step(self) -> bool:
        now = time.perf_counter()
        if now - self._looked > GLANCE:
            self._looked = now
            self._update_bar(now)
        return True

    def between(self) -> None:
        step, now = self.model.num_timesteps, time.perf_counter()
        elapsed = now - self._since
        figures = self.figures() | {"train/fps": (step - self._steps) / elapsed, "train/sps": 1 / elapsed}
        for name in ("loss/total", "loss/policy", "loss/value"):
            if not math.isfinite(figures.get(name, 0.0)):
                raise diverged(f"{name} is {figures[name]}", step)
        if not all(weights.isfinite().all() for weights in self.model.policy.parameters()):
            raise diverged("the weights are no longer finite", step)
        moment = Moment(step, self.model, (), figures, self._folder)
        failure = self._hooks.call(moment)
        self._tracking.log(step, moment.metrics)
        if self._show:
            say(figures_line(step, moment.metrics))
        self._dashboard.show(numbers(moment.metrics))
        self._update_bar(now)
        self._after(moment, failure)
        if failure is not None:
            raise failure
        if moment.stopped is not None:
            raise EndedError
        self._steps, self._since = step, time.perf_counter()

    def figures(self) -> dict[str, float]:
        """Return the figures of the latest update, and the means over the latest 100 episodes."""
        learnt = self.model.logger.name_to_value
        figures = {ours: float(learnt[theirs]) for theirs, ours in NAMES.items() if theirs in learnt}
        if "train/entropy_loss" in learnt:
            figures["loss/entropy"] = -float(learnt["train/entropy_loss"])
        return figures | self._episodes() | system_metrics()

    def _episodes(self) -> dict[str, float]:
        """Return means over the latest 100 episodes.

        `env/goal_reached_rate` is that of the episodes of which the environment reports `is_success`.
        """
        means = {}
        if self.model.ep_info_buffer:
            means["train/episode_return"] = float(np.mean([episode["r"] for episode in self.model.ep_info_buffer]))
            means["train/episode_length"] = float(np.mean([episode["l"] for episode in self.model.ep_info_buffer]))
        if self.model.ep_success_buffer:
            means["env/goal_reached_rate"] = float(np.mean(self.model.ep_success_buffer))
        return means

    def _update_bar(self, now: float) -> None:
        means = self._episodes()
        self._dashboard.update(
            self.model.num_timesteps,
            fps=(self.model.num_timesteps - self._first) / max(now - self._begun, 1e-9),
            success=means.get("env/goal_reached_rate", math.nan),
            episode_return=means.get("train/episode_return", math.nan),
        )


class SwarmFigures(Figures):
    """Those of a swarm, whose robots report their success when they arrive, see `SwarmVecEnv`."""

    def _on_step(self) -> bool:
        if any(self.locals["infos"]) and self.model.ep_success_buffer is not None:
            lanes = zip(self.locals["infos"], self.locals["dones"], strict=True)
            counted = [info["is_success"] for info, done in lanes if "is_success" in info and not done]
            self.model.ep_success_buffer += counted  # SB3 itself adds those of lanes that are done
        return super()._on_step()

    def figures(self) -> dict[str, float]:
        """See `Figures`."""
        return super().figures() | {"env/difficulty": env_attr(self, "difficulty")}


class Checkpoints(BetweenUpdates):
    """Keeps the state before each rollout in memory, and writes it to disk every `interval` steps.

    `save_now` writes the latest kept state, even in the middle of a rollout. After Ctrl-C the training goes on from it.
    """

    def __init__(self, interval: int, pack: Callable[[], bytes], write: Callable[[bytes], None]) -> None:
        super().__init__()
        self._interval, self._pack, self._write = interval, pack, write
        self._latest: bytes | None = None
        self._patience = Patience()
        self.steps = 0  # agent steps at the latest state

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._written = self.model.num_timesteps

    def before_rollout(self) -> None:
        self._latest, self.steps = self._pack(), self.model.num_timesteps
        if self.steps // self._interval > self._written // self._interval:
            self._patience.try_to(self.save_now, f"the checkpoint at {self.steps:,} steps", TRY_AGAIN)

    def save_now(self) -> bool:
        """Write the latest state. Returns False if there is none yet. Raises OSError if the disk refuses it."""
        if self._latest is None:
            return False
        self._write(self._latest)
        self._written = self.steps
        return True


class Levels(BetweenUpdates):
    """Raises the difficulty of the worlds when the curriculum does."""

    def __init__(self, curriculum: Curriculum) -> None:
        super().__init__()
        self.curriculum = curriculum

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "is_success" in info:
                self.curriculum.note(info["is_success"])
        return True

    def before_rollout(self) -> None:
        if self.curriculum.advance():
            self.training_env.env_method("set_difficulty", self.curriculum.level)
            if self.model.ep_success_buffer is not None:
                self.model.ep_success_buffer.clear()
            say(f"Difficulty {self.curriculum.level} from {self.model.num_timesteps:,} steps on")


class BufferMean:
    """The mean over SB3's buffer of the latest 100 episodes, a `trainers.run.stopping.Mean`. Checkpoints hold the buffer."""

    def __init__(self, read: Callable[[Any], list[float]]) -> None:
        """read: returns what is in a buffer of the model."""
        self._read = read

    def __call__(self, moment: Moment) -> float | None:
        values = self._read(moment.state)
        return float(np.mean(values)) if len(values) >= EPISODES else None

    def state(self) -> None:
        """See `Mean`."""

    def restore(self, saved: Any) -> None:
        """See `Mean`."""


def returns_of(model: Any) -> list[float]:
    """Return the returns in the buffer of a model."""
    return [episode["r"] for episode in model.ep_info_buffer or ()]


class EntropySchedule(BaseCallback):
    """Changes the weight of the entropy bonus linearly with the steps done, before each update."""

    def __init__(self, first: float, last: float, steps: int) -> None:
        """Go from the weight `first` to `last`. steps: agent steps of the whole training."""
        super().__init__()
        self._first, self._last, self._whole = first, last, steps

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        done = min(model.num_timesteps / self._whole, 1.0)
        model.ent_coef = (1 - done) * self._first + done * self._last
        model.logger.record("train/ent_coef", model.ent_coef)

    def _on_step(self) -> bool:
        return True


def env_attr(callback: BaseCallback, name: str) -> Any:
    """Return an attribute of the environment. It is the same for all lanes."""
    return callback.training_env.get_attr(name, 0)[0]
