"""An empty arena: robots meet only each other."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from entropy_env.checks import ARENA
from entropy_env.scenarios.base import LEVELS
from entropy_env.scenarios.placement import PITCH
from entropy_env.scenarios.roaming import Roaming, Sizes

SIZES = ((8.0, 6.0), (9.0, 7.0), (10.5, 8.0), (12.0, 9.0))  # m
STEPS_PER_METRE = 20  # per metre of the diagonal: twice what a robot at 1 m/s needs


@dataclasses.dataclass(frozen=True)
class Open(Roaming):
    """An empty arena with spawns and goals anywhere.

    The arena grows with the difficulty: 8 x 6, 9 x 7, 10.5 x 8, 12 x 9 m. With `size` it has that size at every
    difficulty. An arena holds one robot per 0.5 x 0.5 m: Open(size=(60.0, 50.0)) has room for 12,000.
    """

    size: tuple[float, float] | None = None  # m, width and height
    name: ClassVar[str] = "open"
    more_room: ClassVar[str] = "; give a larger arena, scenarios.Open(size=(width, height)), for more"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None:
            object.__setattr__(self, "size", _checked(self.size))

    @property
    def sizes(self) -> Sizes:
        return SIZES if self.size is None else (self.size,) * len(LEVELS)

    @property
    def max_steps(self) -> tuple[int, int, int, int]:
        """200. With `size`, at least 200 and enough to cross the arena's diagonal twice."""
        steps = 200 if self.size is None else max(200, math.ceil(STEPS_PER_METRE * math.hypot(*self.size)))
        return steps, steps, steps, steps


def _checked(size: tuple[float, float]) -> tuple[float, float]:
    """Convert a size to floats. Raises ValueError unless it is two lengths, from one cell to the largest arena."""
    try:
        width, height = map(float, size)
    except (TypeError, ValueError):
        raise ValueError(f"{size=} must be two numbers, width and height in metres") from None
    if not (PITCH <= width <= ARENA.most and PITCH <= height <= ARENA.most):
        raise ValueError(f"{size=} must be from {PITCH} to {ARENA.most:g} m each way")
    return width, height
