"""A sequence of scenarios to learn from, from nearby goals to mazes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.scenarios.base import Draws, Purpose, Scenario, Shapes, empty_layout, rounded, shuffle, uniforms
from entropy_env.scenarios.maze import Maze
from entropy_env.scenarios.obstacles import Obstacles
from entropy_env.scenarios.open import Open
from entropy_env.scenarios.placement import PITCH, TOLERANCE, jitter, place_shapes
from entropy_env.scenarios.roaming import Roaming, settle
from entropy_env.scenarios.rooms import Rooms
from entropy_env.types import Layout, SwarmParams, SwarmSpec

TILES = (4, 3)  # columns and rows of tiles in the first stage's arena; a tile has 3 x 3 cells
NEAR_PITCH = 0.6  # m between neighbouring cells of a tile
NEAR_SIZE = (3 * NEAR_PITCH * TILES[0], 3 * NEAR_PITCH * TILES[1])  # m
NEAR_JITTER = 0.05  # m; goals are then between 0.5 and 1.85 m away
STAGES: tuple[tuple[Roaming, ...], ...] = ((), (Open(1),), (Obstacles(3),), (Rooms(2), Maze(2)))


class Curriculum(Scenario):
    """One stage for each difficulty. A stage draws each layout from one of its families, at random.

    Difficulty 1: an open arena of 7.2 x 5.4 m with goals within 0.5 to 2 m. 2: `open` 1, 8 x 6 m.
    3: `obstacles` 3, 10 x 8 m. 4: `rooms` 2 and `maze` 2, 10.5 x 7 and 7.5 x 6 m.
    """

    name = "curriculum"
    max_steps = (200, 200, 300, 450)

    @property
    def stages(self) -> tuple[tuple[Roaming, ...], ...]:
        """The families of every stage that this generator is sized for. The first stage has none: see `near_goals`."""
        return STAGES[: self.difficulty]

    @property
    def largest_arena(self) -> tuple[float, float]:
        """The width and height, m, that hold the arenas of all stages."""
        sizes = [NEAR_SIZE, *(family.largest(family.sizes) for family in sum(self.stages, ()))]
        return tuple(np.max(sizes, axis=0).tolist())

    def slots(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for family in sum(self.stages, ()):
            sizes |= {name: max(needed, sizes.get(name, 0)) for name, needed in family.slots().items()}
        return sizes

    def capacity(self, level: int, params: SwarmParams) -> int:
        if level == 1:
            return 9 * TILES[0] * TILES[1] if jitter(params, NEAR_PITCH) >= NEAR_JITTER else 0
        return min(family.capacity(family.difficulty, params) for family in STAGES[level - 1])

    def generate(self, key: jax.Array, spec: SwarmSpec, params: SwarmParams) -> Layout:
        u = uniforms(key, self._shapes(spec))
        first = functools.partial(near_goals, spec=spec, params=params)
        if self.difficulty == 1:
            layout = first(u)
        else:
            later = functools.partial(self._later_stage, spec=spec, params=params)
            layout = jax.lax.cond(params.difficulty <= 1, first, later, u)
        return layout.replace(valid=layout.valid & self.sized_for(params))

    def _shapes(self, spec: SwarmSpec) -> Shapes:
        """Return the shapes of the random numbers. All stages share the numbers of a purpose."""
        needed: list[Shapes] = [near_shapes(spec), {Purpose.FAMILY: (1,)}, place_shapes(self.largest_arena, spec)]
        needed += [family.arena_shapes() for family in sum(self.stages, ())]
        purposes = sorted({purpose for shapes in needed for purpose in shapes})
        return {
            purpose: tuple(np.max([shapes[purpose] for shapes in needed if purpose in shapes], axis=0).tolist())
            for purpose in purposes
        }

    def _later_stage(self, u: Draws, spec: SwarmSpec, params: SwarmParams) -> Layout:
        """Draw a layout of the second or a later stage."""

        def draw(family, u):
            own = params.replace(difficulty=jnp.int32(family.difficulty))
            return family.arena(u, spec, own), family.spacing(own)

        def stage(families, u):
            branches = [functools.partial(draw, family) for family in families]
            return jax.lax.switch((u[Purpose.FAMILY][0] * len(families)).astype(jnp.int32), branches, u)

        branches = [functools.partial(stage, families) for families in self.stages[1:]]
        layout, spacing = jax.lax.switch(params.difficulty - 2, branches, u)
        return settle(layout, spacing, u, self.largest_arena, spec, params)


def near_shapes(spec: SwarmSpec) -> Shapes:
    """Return the shapes of the random numbers that `near_goals` takes."""
    return {Purpose.TILES: TILES} | place_shapes((3 * TILES[0] * PITCH, 3 * TILES[1] * PITCH), spec)


def near_goals(u: Draws, spec: SwarmSpec, params: SwarmParams) -> Layout:
    """Draw an open arena of tiles of 3 x 3 cells, in which all poses and goals of an agent lie in one tile.

    The poses of an agent lie in one cell, and its goals visit the other eight in turn. All agents of a tile take the same
    turn, so their goals stay apart. u: in [0, 1), of the shapes `near_shapes` or larger.
    """
    num_agents, num_goals = spec.num_agents, spec.num_goals
    columns, rows = 3 * TILES[0], 3 * TILES[1]
    u_order = u[Purpose.CELLS][:columns, :rows].reshape(-1)
    agent = np.arange(num_agents) % (columns * rows)
    seat = shuffle(u_order, jnp.ones_like(u_order, bool))[agent]
    tile, cell = jnp.stack([seat // rows, seat % rows]) // 3, jnp.stack([seat // rows, seat % rows]) % 3
    turn = (u[Purpose.TILES] * 8).astype(jnp.int32)[tile[0], tile[1]]
    shift = 1 + (turn[:, None] + 3 * np.arange(num_goals, dtype=np.int32)[None]) % 8

    def point(cell, u):
        column, row = 3 * tile[0][:, None] + cell // 3, 3 * tile[1][:, None] + cell % 3
        centre = (jnp.stack([column, row], axis=-1).astype(jnp.float32) + 0.5) * NEAR_PITCH
        return rounded(centre) + rounded((2 * u.swapaxes(0, 1) - 1) * NEAR_JITTER)

    number = (3 * cell[0] + cell[1])[:, None]
    heading = (2 * u[Purpose.HEADINGS].T - 1) * np.pi
    spawns = jnp.concatenate([point(number, u[Purpose.SPAWNS]), heading[..., None]], axis=-1)
    fits = (jitter(params, NEAR_PITCH) >= NEAR_JITTER - TOLERANCE) & (num_agents <= columns * rows)
    layout = empty_layout(jnp.array(NEAR_SIZE, jnp.float32), spec)
    return layout.replace(spawns=spawns, goals=point((number + shift) % 9, u[Purpose.GOALS]), valid=fits)
