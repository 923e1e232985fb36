"""Two rooms and a corridor that robots can only pass one by one."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.scenarios.base import Purpose, Scenario, empty_layout, fill_slots, rounded, uniforms
from entropy_env.scenarios.placement import cell_grid, free_across, place, place_shapes, room_between
from entropy_env.types import Layout, SwarmParams, SwarmSpec

ROOM = (4.0, 6.5)  # m, width and height of each of the two rooms
SWAP = np.array([[0, 1], [1, 0]])  # the rooms where robots start and end
WIDTH = 3.6  # clear width of the corridor in agent radii: wider than one agent, narrower than two


class Corridor(Scenario):
    """Robots start in the two rooms, alternately, and have to change sides. Either room could hold them all.

    Rooms of 4 x 6.5 m. Difficulty 1: a corridor 1 m long, in the middle. 2: 2 m long, up to 1 m off the middle.
    3: 3 m long, up to 2 m off. 4: 4 m long, up to 2.5 m off.
    `max_steps` is enough for 10 robots at 1 m/s to pass strictly one after the other.
    """

    name = "corridor"
    max_steps = (400, 550, 700, 850)
    # By difficulty, for practice corridors to change.
    lengths: ClassVar[tuple[float, ...]] = (1.0, 2.0, 3.0, 4.0)  # m
    offsets: ClassVar[tuple[float, ...]] = (0.0, 1.0, 2.0, 2.5)  # m, the largest offset of the corridor from the middle
    widths: ClassVar[tuple[float, ...]] = (WIDTH,) * 4  # clear, in agent radii

    def slots(self) -> dict[str, int]:
        return {"num_boxes": 2}

    def capacity(self, level: int, params: SwarmParams) -> int:
        return free_across(ROOM[0], ROOM[0], params) * free_across(ROOM[1], ROOM[1], params)

    def generate(self, key: jax.Array, spec: SwarmSpec, params: SwarmParams) -> Layout:
        width, height = ROOM
        largest = (2 * width + self.largest(self.lengths), height)
        u = uniforms(key, {Purpose.ARENA: (1,)} | place_shapes(largest, spec))
        length = self.row(self.lengths, params)
        middle = height / 2 + rounded((2 * u[Purpose.ARENA][0] - 1) * self.row(self.offsets, params))
        layout = empty_layout(jnp.stack([2 * width + length, jnp.float32(height)]), spec)

        half_width = rounded(self.row(self.widths, params) / 2 * params.agent_radius)
        half_below, half_above = (middle - half_width) / 2, (height - middle - half_width) / 2
        box_x = width + length / 2
        boxes = jnp.stack(
            [
                jnp.stack([box_x, half_below, length / 2, half_below]),
                jnp.stack([box_x, height - half_above, length / 2, half_above]),
            ]
        )
        boxes, box_mask = fill_slots(layout.boxes, layout.box_mask, boxes, jnp.ones(2, bool))

        centres, _ = cell_grid(layout.size, largest)
        left = jnp.zeros((1, 2), jnp.float32)
        right = jnp.stack([width + length, jnp.float32(0)])[None]
        room_size = np.array([ROOM], np.float32)
        room = jnp.stack([room_between(centres, corner, corner + room_size, params) for corner in (left, right)])
        spawns, goals, found = place(u, centres, room, SWAP, 2, spec, params)
        return layout.replace(
            boxes=boxes, box_mask=box_mask, spawns=spawns, goals=goals, valid=found & self.sized_for(params)
        )
