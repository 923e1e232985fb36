"""Layout generators by name."""

from __future__ import annotations

import difflib

from entropy_env.scenarios.base import LEVELS, Scenario
from entropy_env.scenarios.circle import Circle
from entropy_env.scenarios.corridor import Corridor
from entropy_env.scenarios.crossing import Crossing
from entropy_env.scenarios.curriculum import Curriculum
from entropy_env.scenarios.lookout import Lookout
from entropy_env.scenarios.maze import Maze
from entropy_env.scenarios.obstacles import Obstacles
from entropy_env.scenarios.open import Open
from entropy_env.scenarios.relay import Relay
from entropy_env.scenarios.rooms import Rooms

SCENARIOS: dict[str, type[Scenario]] = {
    family.name: family
    for family in (Open, Obstacles, Rooms, Maze, Corridor, Crossing, Circle, Curriculum, Relay, Lookout)
}


def make_scenario(name: str, difficulty: int = 1) -> Scenario:
    """Return the generator of that name, sized for every difficulty up to `difficulty`.

    Raises ValueError if there is none of that name.
    """
    if name not in SCENARIOS:
        nearest = difflib.get_close_matches(str(name), SCENARIOS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"unknown scenario {name!r}: choose from {', '.join(SCENARIOS)}{hint}")
    return SCENARIOS[name](difficulty)


__all__ = ["LEVELS", "SCENARIOS", "Open", "Scenario", "make_scenario"]
