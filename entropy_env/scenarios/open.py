"""An empty arena: robots meet only each other."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from entropy_env.scenarios.base import Scenario, empty_layout
from entropy_env.scenarios.placement import cell_grid, cells_across, place
from entropy_env.types import Layout, SwarmParams, SwarmSpec

SIZES = ((8.0, 6.0), (9.0, 7.0), (10.5, 8.0), (12.0, 9.0))  # m


@dataclasses.dataclass(frozen=True)
class Open(Scenario):
    """Spawns and goals anywhere; a harder arena is larger: 8 x 6, 9 x 7, 10.5 x 8, 12 x 9 m."""

    name = "open"

    def capacity(self, level: int, params: SwarmParams) -> int:
        width, height = SIZES[level - 1]
        return cells_across(width) * cells_across(height)

    def generate(self, key: jax.Array, spec: SwarmSpec, params: SwarmParams) -> Layout:
        layout = empty_layout(self.row(np.array(SIZES, np.float32), params), spec)
        centres, inside = cell_grid(layout.size, SIZES[self.difficulty - 1])
        spawns, goals, found = place(key, centres, inside[None], inside[None], spec.num_agents, spec.num_goals, params)
        return layout.replace(spawns=spawns, goals=goals, valid=found & self.sized_for(params))
