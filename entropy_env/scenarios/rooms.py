"""Rooms with doors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.scenarios.base import Draws, Shapes, fill_slots, rounded
from entropy_env.scenarios.roaming import Roaming
from entropy_env.scenarios.trees import border_draws, border_shapes, grid_borders, spanning_tree
from entropy_env.types import Layout, SwarmParams, SwarmSpec

DOOR = 1.0  # m, clear width
CORNER = 0.3  # m, least gap between a door and a wall that meets the door's wall
GRIDS = ((2, 2), (3, 2), (3, 3), (4, 3))  # columns and rows of rooms
EXTRA_DOORS = (1.0, 0.5, 0.25, 0.1)  # probability of a door in a border where the tree needs none


class Rooms(Roaming):
    """A grid of rooms, joined by doors of 1 m at random places.

    The doors of a random spanning tree join all rooms. Every other pair of neighbours has a door with probability p.
    Difficulty 1: 2 x 2 rooms in 8 x 6 m, p = 1. 2: 3 x 2 in 10.5 x 7 m, p = 0.5. 3: 3 x 3 in 10.5 x 9 m, p = 0.25.
    4: 4 x 3 in 12 x 9 m, p = 0.1.
    """

    name = "rooms"
    sizes = ((8.0, 6.0), (10.5, 7.0), (10.5, 9.0), (12.0, 9.0))
    spacings = ((4.0, 3.0), (3.5, 3.5), (3.5, 3.0), (3.0, 3.0))
    max_steps = (400, 400, 450, 600)

    def slots(self) -> dict[str, int]:
        columns, rows = self.largest(GRIDS)
        return {"num_walls": (columns - 1) * (rows + 1) + (rows - 1) * (columns + 1)}

    def arena_shapes(self) -> Shapes:
        return border_shapes(self.largest(GRIDS), uses=3)

    def arena(self, u: Draws, spec: SwarmSpec, params: SwarmParams) -> Layout:
        layout = super().arena(u, spec, params)
        columns, rows = self.largest(GRIDS)
        grid = self.row(GRIDS, params)
        borders = grid_borders(columns, rows)
        u_tree, u_extra, u_door = border_draws(u, columns, rows).T
        present = jnp.all(borders[:, 1] < grid[None], axis=-1)
        door = spanning_tree(u_tree, borders, present) | (u_extra < self.row(EXTRA_DOORS, params))

        upright, flat = np.split(np.arange(len(borders)), [(columns - 1) * rows])
        spacing = self.spacing(params)
        solid = [
            _pieces(door[lines], u_door[lines], spacing, grid, axis, params.wall_half_thickness)
            for axis, lines in ((1, upright.reshape(columns - 1, rows)), (0, flat.reshape(rows - 1, columns)))
        ]
        pieces, there, fits = zip(*solid, strict=True)
        walls, wall_mask = fill_slots(layout.walls, layout.wall_mask, jnp.concatenate(pieces), jnp.concatenate(there))
        return layout.replace(walls=walls, wall_mask=wall_mask, valid=layout.valid & fits[0] & fits[1])


def _pieces(
    door: jax.Array,
    u_door: jax.Array,
    spacing: jax.Array,
    grid: jax.Array,
    axis: int,
    half_thickness: jax.Array | float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cut all parallel walls at their doors. Returns pieces (M, 2, 2) m, which are used (M,), and if a door fits, () bool.

    A wall along b rooms is cut into b + 1 pieces, once in each room's border. Without a door there, two pieces meet.
    door: (L, B) bool and u_door: (L, B) in [0, 1), by line and border. spacing: (2,) m, the sides of a room.
    grid: (2,), columns and rows. axis: 0 for walls along x, 1 for walls along y.
    """
    lines, borders = door.shape
    border, line = jnp.arange(borders, dtype=jnp.int32)[None], jnp.arange(lines, dtype=jnp.int32)[:, None]
    jamb = DOOR / 2 + half_thickness
    nearest = jamb + CORNER + half_thickness
    slack = spacing[axis] - 2 * nearest
    middle = border.astype(jnp.float32) * spacing[axis] + nearest + rounded(slack * u_door)
    half = jnp.where(door, jamb, 0.0)
    length = grid[axis].astype(jnp.float32) * spacing[axis]
    start = jnp.pad(middle + half, ((0, 0), (1, 0)))
    end = jnp.pad(jnp.where(border < grid[axis], middle - half, length), ((0, 0), (0, 1)), constant_values=length)
    across = jnp.broadcast_to((line + 1).astype(jnp.float32) * spacing[1 - axis], start.shape)
    points = [jnp.stack([along, across] if axis == 0 else [across, along], axis=-1) for along in (start, end)]
    there = (jnp.arange(borders + 1, dtype=jnp.int32)[None] <= grid[axis]) & (line < grid[1 - axis] - 1)
    return jnp.stack(points, axis=-2).reshape(-1, 2, 2), there.reshape(-1), slack >= 0
