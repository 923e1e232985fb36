"""Raise the difficulty as a swarm gets better."""

from __future__ import annotations

import dataclasses

HARDEST = 4


@dataclasses.dataclass
class Curriculum:
    """Raises the level, up to 4, by one whenever a large enough share of episodes succeeds."""

    threshold: float = 0.8  # least share of successes to raise the level
    episodes: int = 100  # least number of episodes to judge a level by
    level: int = 1
    successes: int = 0
    failures: int = 0

    def __post_init__(self) -> None:
        if self.level not in range(1, HARDEST + 1):
            raise ValueError(f"level={self.level!r} must be from 1 to {HARDEST}")

    def note(self, success: bool) -> None:
        """Count one episode."""
        self.successes += success
        self.failures += not success

    @property
    def rate(self) -> float:
        """The share of successes since the level began or was last judged, 0 without episodes."""
        return self.successes / max(self.successes + self.failures, 1)

    def advance(self) -> bool:
        """Judge the level once enough episodes are counted, and restart the count. Returns whether the level has risen."""
        if self.successes + self.failures < self.episodes:
            return False
        rises = self.rate >= self.threshold and self.level < HARDEST
        self.level += rises
        self.successes = self.failures = 0
        return rises
