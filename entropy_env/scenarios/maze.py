"""Mazes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from entropy_env.scenarios.base import Draws, Shapes
from entropy_env.scenarios.roaming import Roaming
from entropy_env.scenarios.trees import border_draws, border_shapes, grid_borders, spanning_tree
from entropy_env.types import Layout, SwarmParams, SwarmSpec

GRIDS = ((4, 3), (5, 4), (6, 5), (8, 6))  # columns and rows of cells
PITCHES = (2.0, 1.5, 1.5, 1.0)  # m, side of a cell; must be a multiple of the side of a placement cell


class Maze(Roaming):
    """A random spanning tree of cells: exactly one way leads from each cell to any other.

    Difficulty 1: 4 x 3 cells of 2 m. 2: 5 x 4 of 1.5 m. 3: 6 x 5 of 1.5 m. 4: 8 x 6 of 1 m.
    `max_steps` is one and a half times what a robot at 1 m/s needs to pass through every cell once.
    """

    name = "maze"
    corners_per_wall = 4  # there are as many walls as posts, and 4 corners at most around a post
    sizes = tuple((columns * pitch, rows * pitch) for (columns, rows), pitch in zip(GRIDS, PITCHES, strict=True))
    spacings = tuple((pitch, pitch) for pitch in PITCHES)
    max_steps = (360, 450, 675, 720)

    def slots(self) -> dict[str, int]:
        return {"num_walls": max((columns - 1) * (rows - 1) for columns, rows in GRIDS[: self.difficulty])}

    def arena_shapes(self) -> Shapes:
        return border_shapes(self.largest(GRIDS), uses=1)

    def arena(self, u: Draws, spec: SwarmSpec, params: SwarmParams) -> Layout:
        layout = super().arena(u, spec, params)
        columns, rows = self.largest(GRIDS)
        borders = grid_borders(columns, rows)
        u_tree = border_draws(u, columns, rows)[:, 0]
        present = jnp.all(borders[:, 1] < self.row(GRIDS, params)[None], axis=-1)
        closed = present & ~spanning_tree(u_tree, borders, present)

        along = (borders[:, 1] - borders[:, 0])[:, ::-1]
        walls = np.stack([borders[:, 1], borders[:, 1] + along], axis=1).astype(np.float32)
        slot = jnp.where(closed, jnp.cumsum(closed, dtype=jnp.int32) - 1, spec.num_walls)
        return layout.replace(
            walls=layout.walls.at[slot].set(walls * self.row(PITCHES, params), mode="drop"),
            wall_mask=layout.wall_mask.at[slot].set(True, mode="drop"),
        )
