"""Layout generators by name."""

from __future__ import annotations

import difflib

from entropy_env.scenarios.base import LEVELS, Scenario
from entropy_env.scenarios.open import Open

SCENARIOS: dict[str, type[Scenario]] = {family.name: family for family in (Open,)}


def make_scenario(name: str, difficulty: int = 1) -> Scenario:
    """The family of that name, sized for every difficulty up to `difficulty`. ValueError where there is none."""
    if name not in SCENARIOS:
        nearest = difflib.get_close_matches(str(name), SCENARIOS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"unknown scenario {name!r}: choose from {', '.join(SCENARIOS)}{hint}")
    return SCENARIOS[name](difficulty)


__all__ = ["LEVELS", "SCENARIOS", "Scenario", "make_scenario"]
