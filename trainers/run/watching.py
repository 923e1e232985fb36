"""Hooks that look at the policy now and then: they evaluate it and film it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainers.run.hooks import Hook, Moment
from trainers.run.options import StopOptions
from trainers.run.stopping import RETURN, Best, Mean, RecentMean, Target


class Every:
    """The base of hooks that act every `interval` agent steps, after the update that completes them."""

    def __init__(self, interval: int) -> None:
        self._interval, self._step = interval, 0

    def __call__(self, moment: Moment) -> None:
        due = moment.step // self._interval > self._step // self._interval
        self._step = moment.step
        if due:
            self.act(moment)

    def act(self, moment: Moment) -> None:
        """Do what is due."""
        raise NotImplementedError

    def state(self) -> Any:
        return self._step

    def restore(self, saved: Any) -> None:
        self._step = saved


class Evaluation(Every):
    """Adds figures of the policy to the metrics, under `eval/`."""

    def __init__(self, interval: int, evaluate: Callable[[Moment], Mapping[str, float]]) -> None:
        super().__init__(interval)
        self._evaluate = evaluate

    def act(self, moment: Moment) -> None:
        moment.metrics |= {f"eval/{name}": value for name, value in self._evaluate(moment).items()}


class Films(Every):
    """Films an episode: `videos/step_<step>.gif` in the run folder. A film that fails costs a warning."""

    def __init__(self, interval: int, film: Callable[[Moment, Path], object]) -> None:
        super().__init__(interval)
        self._film = film

    def act(self, moment: Moment) -> None:
        path = moment.folder / "videos" / f"step_{moment.step:012d}.gif"
        try:
            self._film(moment, path)
        except (OSError, RuntimeError) as error:
            warnings.warn(f"no film at {moment.step:,} steps: {error}", stacklevel=2)


def judge(
    options: StopOptions, policy: Callable[[Moment], Any], prepare: Callable[[], Callable[[Any], Mapping[str, float]]],
    episode_return: Mean | None = None,
) -> list[Hook]:  # fmt: skip
    """Return the hooks that the options ask for: evaluation, the best checkpoint, the target.

    policy: makes the policy after an update. prepare: returns what computes `return` and other figures of a policy; called
    only if it is needed. episode_return: the mean that the target is for; by default that of a native learner.
    """
    hooks: list[Hook] = []
    if options.eval_interval:
        evaluate = prepare()
        hooks.append(Evaluation(options.eval_interval, lambda moment: evaluate(policy(moment))))
        hooks.append(Best(options.early_stop))
    if options.target_return is not None:
        hooks.append(Target("return", options.target_return, episode_return or RecentMean(*RETURN)))
    return hooks
