"""Families in which robots start and end anywhere that is clear."""

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
    """An arena with obstacles, and robots on all of its free cells alike."""

    spacings: ClassVar[Sizes | None] = None  # m, between the lines on which walls stand; None for an arena without

    @property
    def sizes(self) -> Sizes:
        """m, for each difficulty."""
        raise NotImplementedError

    def capacity(self, level: int, params: SwarmParams) -> int:
        size, spacing = self.sizes[level - 1], (self.spacings or self.sizes)[level - 1]
        columns, rows = (free_across(*lengths, params) for lengths in zip(size, spacing, strict=True))
        return columns * rows

    def arena_shapes(self) -> Shapes:
        """Of the random numbers that `arena` takes."""
        return {}

    def arena(self, u: Draws, spec: SwarmSpec, params: SwarmParams) -> Layout:
        """The layout but for its spawns and goals. u: in [0, 1), of `arena_shapes` or larger."""
        return empty_layout(self.row(self.sizes, params), spec).replace(valid=self.sized_for(params))

    def spacing(self, params: SwarmParams) -> jax.Array:
        """(2,) m, between the lines on which walls stand; the size of an arena without."""
        return self.row(self.spacings or self.sizes, params)

    def generate(self, key: jax.Array, spec: SwarmSpec, params: SwarmParams) -> Layout:
        largest = self.largest(self.sizes)
        u = uniforms(key, {**self.arena_shapes(), **place_shapes(largest, spec)})
        return settle(self.arena(u, spec, params), self.spacing(params), u, largest, spec, params)


def free_cells(
    layout: Layout, spacing: jax.Array, largest: tuple[float, float], params: SwarmParams
) -> tuple[jax.Array, jax.Array]:
    """Centres (C, 2) m and room (C,) m of an arena's cells, C being those of the largest arena (m).

    spacing: (2,) m, between the lines on which walls stand.
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
    """An arena with spawns and goals on its free cells. u: in [0, 1), for `place`. The rest as for `free_cells`."""
    centres, room = free_cells(layout, spacing, largest, params)
    spawns, goals, found = place(u, centres, room[None], ONE_ZONE, 1, spec, params)
    return layout.replace(spawns=spawns, goals=goals, valid=layout.valid & found)
