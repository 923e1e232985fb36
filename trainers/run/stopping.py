"""Hooks that keep the best checkpoint and end a run early."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from trainers.run.hooks import Moment

EPISODES = 100  # that a target is judged by
RETURN, SUCCESS = ("train/episode_return", "train/episodes"), ("env/goal_reached_rate", "env/episodes")
BEST = "best"  # the folder in `checkpoints`


class Mean(Protocol):
    """The mean of a figure over the latest episodes. `state` and `restore` are those of `StatefulHook`."""

    def __call__(self, moment: Moment) -> float | None:
        """Return the mean after an update, or None before there are enough episodes."""

    def state(self) -> Any: ...

    def restore(self, saved: Any) -> None: ...


class RecentMean:
    """The mean of a figure over the latest episodes: those of the fewest latest updates that had enough together."""

    def __init__(self, figure: str, count: str, episodes: int = EPISODES) -> None:
        """figure: a name in the metrics, a mean over episodes. count: the name of their number. episodes: the least."""
        self._figure, self._count, self._episodes = figure, count, episodes
        self._updates: deque[tuple[float, float]] = deque()  # number of episodes, and their mean

    def __call__(self, moment: Moment) -> float | None:
        """See `Mean`. Raises ValueError if the learner does not report the figure."""
        return self.note(moment.metrics)

    def note(self, metrics: Mapping[str, float]) -> float | None:
        """Add the figures of an update, and return the mean. Without episodes the figure need not be there."""
        needed = (self._figure, self._count) if metrics.get(self._count, 1) else ()
        missing = [name for name in needed if name not in metrics]
        if missing:
            raise ValueError(f"no figure {missing[0]!r}, which this learner would have to report")
        if metrics[self._count] > 0:
            self._updates.append((metrics[self._count], metrics[self._figure]))
        total = sum(count for count, _ in self._updates)
        while self._updates and total - self._updates[0][0] >= self._episodes:
            total -= self._updates.popleft()[0]
        if total < self._episodes:
            return None
        return sum(count * value for count, value in self._updates) / total

    def clear(self) -> None:
        """Forget all updates."""
        self._updates.clear()

    def state(self) -> Any:
        return list(self._updates)

    def restore(self, saved: Any) -> None:
        self._updates = deque((count, value) for count, value in saved)


class Target:
    """Ends the run once the mean of a figure over the latest episodes is high enough."""

    def __init__(self, name: str, least: float, mean: Mean) -> None:
        """name: of the figure, for people."""
        self._name, self._least, self._mean = name, least, mean
        self.__name__ = f"target_{name}"  # under which checkpoints keep its state

    def __call__(self, moment: Moment) -> None:
        mean = self._mean(moment)
        if mean is not None and mean >= self._least:
            moment.stop(f"the target {self._name} {self._least:g} is reached, with {mean:.4g}")

    def state(self) -> Any:
        return self._mean.state()

    def restore(self, saved: Any) -> None:
        self._mean.restore(saved)


class Best:
    """Keeps the checkpoint of the best evaluation, and may end the run after some evaluations without a better one.

    An evaluation is better with a higher `eval/success`, or with the same and a higher `eval/return`.
    """

    def __init__(self, patience: int | None = None) -> None:
        """patience: end the run after so many evaluations in a row without a better one."""
        self._patience = patience
        self._best: list[float] | None = None  # success and return
        self._worse = 0  # evaluations since

    def __call__(self, moment: Moment) -> None:
        if "eval/return" not in moment.metrics:
            return
        score = [moment.metrics.get("eval/success", 0.0), moment.metrics["eval/return"]]
        if self._best is None or score > self._best:
            self._best, self._worse = score, 0
            moment.keep_as(BEST)
        else:
            self._worse += 1
        if self._patience and self._worse >= self._patience:
            moment.stop(f"{self._worse} evaluations without a better one")

    def state(self) -> Any:
        return {"best": self._best, "worse": self._worse}

    def restore(self, saved: Any) -> None:
        self._best, self._worse = saved["best"], saved["worse"]
