"""Hooks that look at the policy now and then: they evaluate it and film it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainers.run.hooks import Moment


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
