"""The base of scenarios in which spawns and goals may lie anywhere that is free."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.scenarios.base import Draws, Scenario, Shapes, empty_layout, uniforms
from entropy_env.scenarios.placement import (
    cell_grid,
    free_across,
    place,
    place_shapes,
    room_between_lines,
    room_near_islands,
)
from entropy_env.types import Layout, SwarmParams, SwarmSpec

Sizes = tuple[tuple[float, float], ...]

ONE_ZONE = np.zeros((1, 2), np.int32)


class Roaming(Scenario):
    """An arena with obstacles, in which every free cell is equally likely as a spawn or a goal."""

    spacings: ClassVar[Sizes | None] = None  # m, between the lines on which walls stand; None if there are no walls

    @property
    def sizes(self) -> Sizes:
        """The width and height of the arena, m, for each difficulty."""
        raise NotImplementedError

    def capacity(self, level: int, params: SwarmParams) -> int:
        size, spacing = self.sizes[level - 1], (self.spacings or self.sizes)[level - 1]
        columns, rows = (free_across(*lengths, params) for lengths in zip(size, spacing, strict=True))
        return columns * rows

    def arena_shapes(self) -> Shapes:
        """Return the shapes of the random numbers that `arena` takes."""
        return {}

    def arena(self, u: Draws, spec: SwarmSpec, params: SwarmParams) -> Layout:
        """Draw the layout without spawns and goals. u: in [0, 1), of the shapes `arena_shapes` or larger."""
        return empty_layout(self.row(self.sizes, params), spec).replace(valid=self.sized_for(params))

    def spacing(self, params: SwarmParams) -> jax.Array:
        """Return the spacing (2,) m of the lines on which walls stand. Without walls, it is the arena's size."""
        return self.row(self.spacings or self.sizes, params)

    def generate(self, key: jax.Array, spec: SwarmSpec, params: SwarmParams) -> Layout:
        largest = self.largest(self.sizes)
        u = uniforms(key, {**self.arena_shapes(), **place_shapes(largest, spec)})
        return settle(self.arena(u, spec, params), self.spacing(params), u, largest, spec, params)


def free_cells(
    layout: Layout, spacing: jax.Array, largest: tuple[float, float], params: SwarmParams
) -> tuple[jax.Array, jax.Array]:
    """Return the centres (C, 2) m and the room (C,) m of an arena's cells.

    spacing: (2,) m, between the lines on which walls stand. largest: m, size of the largest arena, which has C cells.
    """
    centres, inside = cell_grid(layout.size, largest)
    room = room_between_lines(centres, layout.size, spacing, params)
    if len(layout.boxes) and len(layout.discs):
        room = jnp.minimum(room, room_near_islands(centres, layout, params))
    return centres, jnp.where(inside, room, -1.0)


def settle(
    layout: Layout,
    spacing: jax.Array,
    u: Draws,
    largest: tuple[float, float],
    spec: SwarmSpec,
    params: SwarmParams,
) -> Layout:
    """Put spawns and goals on the free cells of an arena. u: in [0, 1), for `place`. Others: see `free_cells`."""
    centres, room = free_cells(layout, spacing, largest, params)
    spawns, goals, found = place(u, centres, room[None], ONE_ZONE, 1, spec, params)
    return layout.replace(spawns=spawns, goals=goals, valid=layout.valid & found)
