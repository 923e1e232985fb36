"""A circle of robots that all have to cross the middle."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.geometry import wrap_angle
from entropy_env.scenarios.base import Purpose, Scenario, empty_layout, rounded, uniforms
from entropy_env.scenarios.placement import CLEARANCE, TOLERANCE, margin
from entropy_env.types import Layout, SwarmParams, SwarmSpec

RADII = (4.0, 3.0, 2.25, 1.5)  # m
BORDER = 0.5  # m between the circle and the arena's border
HEADING_SPREAD = np.pi / 4  # rad to either side of the middle


class Circle(Scenario):
    """Robots start evenly spaced on a circle and go to the point opposite. Their next goal leads back again.

    The radius is 4, 3, 2.25 or 1.5 m, by difficulty. The circle is turned at random.
    """

    name = "circle"

    def capacity(self, level: int, params: SwarmParams) -> int:
        spacing = 2 * params.agent_radius + CLEARANCE
        if margin(params) > BORDER:
            return 0
        return math.floor(math.pi / math.asin(spacing / (2 * RADII[level - 1])))

    def generate(self, key: jax.Array, spec: SwarmSpec, params: SwarmParams) -> Layout:
        num_agents, num_goals = spec.num_agents, spec.num_goals
        u = uniforms(key, {Purpose.ARENA: (1,), Purpose.HEADINGS: (num_goals, num_agents)})
        radius = self.row(RADII, params)
        middle = radius + BORDER
        layout = empty_layout(jnp.stack([2 * middle, 2 * middle]), spec)

        turns = np.add.outer(np.arange(num_agents) / num_agents, np.arange(num_goals) / 2)
        turn = u[Purpose.ARENA][0] + turns.astype(np.float32)
        angle = rounded(2 * np.pi * (turn - jnp.floor(turn)))
        offset = rounded(radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1))
        heading = wrap_angle(angle + np.pi + rounded(HEADING_SPREAD * (2 * u[Purpose.HEADINGS].T - 1)))

        spacing = 2 * radius * math.sin(math.pi / num_agents) if num_agents > 1 else jnp.inf
        clear = (spacing - 2 * params.agent_radius >= CLEARANCE - TOLERANCE) & (margin(params) <= BORDER + TOLERANCE)
        return layout.replace(
            spawns=jnp.concatenate([middle + offset, heading[..., None]], axis=-1),
            goals=middle - offset,
            valid=clear & self.sized_for(params),
        )
