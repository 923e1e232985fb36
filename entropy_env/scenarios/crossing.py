"""Streams of robots that cross each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.scenarios.base import Scenario, empty_layout, uniforms
from entropy_env.scenarios.placement import (
    PITCH,
    cell_grid,
    cells_across,
    jitter,
    margin,
    place,
    place_shapes,
    room_between,
)
from entropy_env.types import Layout, SwarmParams, SwarmSpec

SIDES = (8.0, 8.0, 8.0, 6.0)  # m, of the square arena
DEPTHS = (2.5, 2.5, 2.0, 2.0)  # m, how far the zone along each side reaches inwards
LEFT, RIGHT, BOTTOM, TOP = range(4)
STREAMS = np.array(  # the streams of each difficulty, from one zone to the zone opposite
    [
        [[LEFT, RIGHT], [RIGHT, LEFT]] * 2,
        [[LEFT, RIGHT], [BOTTOM, TOP]] * 2,
        [[LEFT, RIGHT], [BOTTOM, TOP], [RIGHT, LEFT], [TOP, BOTTOM]],
        [[LEFT, RIGHT], [BOTTOM, TOP], [RIGHT, LEFT], [TOP, BOTTOM]],
    ]
)
NUM_STREAMS = (2, 2, 4, 4)


class Crossing(Scenario):
    """Robots start along the sides of a square and go to the opposite side.

    Difficulty 1: two streams, head on, in 8 x 8 m. 2: two streams at right angles, 8 x 8 m.
    3: four streams, 8 x 8 m. 4: four streams, 6 x 6 m.
    """

    name = "crossing"

    def capacity(self, level: int, params: SwarmParams) -> int:
        if jitter(params) < 0:
            return 0
        line = np.arange(1, cells_across(DEPTHS[level - 1]) + 1)
        cells = cells_across(SIDES[level - 1]) - 2 * line
        return int(np.sum(cells[(line - 0.5) * PITCH >= margin(params)])) * NUM_STREAMS[level - 1]

    def generate(self, key: jax.Array, spec: SwarmSpec, params: SwarmParams) -> Layout:
        side = self.row(SIDES, params)
        layout = empty_layout(jnp.stack([side, side]), spec)
        largest = (self.largest(SIDES),) * 2
        centres, inside = cell_grid(layout.size, largest)
        x, y = centres[:, 0], centres[:, 1]
        depth = jnp.stack([x, side - x, y, side - y])
        # A cell belongs to the zone of its nearest side. A cell on a diagonal belongs to none.
        first, second = jnp.sort(depth, axis=0)[:2]
        zone = (depth == first[None]) & (first < jnp.minimum(self.row(DEPTHS, params), second - PITCH / 4))[None]
        room = room_between(centres, jnp.zeros((1, 2), jnp.float32), layout.size[None], params)
        room = jnp.where(zone & inside[None], room[None], -1.0)
        streams, num_streams = self.row(STREAMS, params), self.row(NUM_STREAMS, params)
        u = uniforms(key, place_shapes(largest, spec))
        spawns, goals, found = place(u, centres, room, streams, num_streams, spec, params)
        return layout.replace(spawns=spawns, goals=goals, valid=found & self.sized_for(params))
