"""Raising the difficulty as a swarm gets better."""

from __future__ import annotations

import dataclasses

HARDEST = 4


@dataclasses.dataclass
class Curriculum:
    """Goes from level 1 to 4, one further each time that enough of enough episodes succeed."""

    threshold: float = 0.8  # share of successes that is enough
    episodes: int = 100  # at a level, before it may end
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
        """Share of successes since the level began or was last judged, 0 without episodes."""
        return self.successes / max(self.successes + self.failures, 1)

    def advance(self) -> bool:
        """Judge what has been counted, if that is enough: whether the level has risen. Counting begins anew."""
        if self.successes + self.failures < self.episodes:
            return False
        rises = self.rate >= self.threshold and self.level < HARDEST
        self.level += rises
        self.successes = self.failures = 0
        return rises
