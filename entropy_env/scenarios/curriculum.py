"""From nearby goals to mazes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.scenarios.base import Scenario, carve, empty_layout, shuffle
from entropy_env.scenarios.maze import Maze
from entropy_env.scenarios.obstacles import Obstacles
from entropy_env.scenarios.open import Open
from entropy_env.scenarios.placement import TOLERANCE, jitter, num_cells, place_draws
from entropy_env.scenarios.roaming import ARENA_DRAWS, Roaming, settle
from entropy_env.scenarios.rooms import Rooms
from entropy_env.types import Layout, SwarmParams, SwarmSpec

TILES = (4, 3)  # columns and rows of tiles of 3 x 3 cells, the first stage's arena
NEAR_PITCH = 0.6  # m between neighbouring cells of a tile
NEAR_SIZE = (3 * NEAR_PITCH * TILES[0], 3 * NEAR_PITCH * TILES[1])  # m
NEAR_JITTER = 0.05  # m, so that goals are 0.5 m away at least and 1.85 m at most
STAGES: tuple[tuple[Roaming, ...], ...] = ((), (Open(1),), (Obstacles(3),), (Rooms(2), Maze(2)))


class Curriculum(Scenario):
    """What to learn first, and what later; each stage draws one of its families at random.

    Difficulty 1: an open arena of 7.2 x 5.4 m with goals within 0.5 to 2 m. 2: `open` 1, 8 x 6 m.
    3: `obstacles` 3, 10 x 8 m. 4: `rooms` 2 and `maze` 2, 10.5 x 7 and 7.5 x 6 m.
    """

    name = "curriculum"
    max_steps = (200, 200, 300, 450)

    @property
    def stages(self) -> tuple[tuple[Roaming, ...], ...]:
        """The families of every stage this generator is sized for; none for the first, which has its own."""
        return STAGES[: self.difficulty]

    @property
    def largest_arena(self) -> tuple[float, float]:
        """m, what the arenas of all stages fit into."""
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
        u = jax.random.uniform(key, (1 + ARENA_DRAWS + place_draws(num_cells(self.largest_arena), spec),))
        first = functools.partial(near_goals, spec=spec, params=params)
        if self.difficulty == 1:
            layout = first(u)
        else:
            later = functools.partial(self._later_stage, spec=spec, params=params)
            layout = jax.lax.cond(params.difficulty <= 1, first, later, u)
        return layout.replace(valid=layout.valid & self.sized_for(params))

    def _later_stage(self, u: jax.Array, spec: SwarmSpec, params: SwarmParams) -> Layout:
        """A layout of the second stage or a later one."""
        u_family, u_arena, u_place = u[0], u[1 : 1 + ARENA_DRAWS], u[1 + ARENA_DRAWS :]

        def draw(family, u_arena):
            own = params.replace(difficulty=jnp.int32(family.difficulty))
            return family.arena(u_arena, spec, own), family.spacing(own)

        def stage(families, u_arena):
            branches = [functools.partial(draw, family) for family in families]
            return jax.lax.switch((u_family * len(families)).astype(jnp.int32), branches, u_arena)

        branches = [functools.partial(stage, families) for families in self.stages[1:]]
        layout, spacing = jax.lax.switch(params.difficulty - 2, branches, u_arena)
        return settle(layout, spacing, u_place, self.largest_arena, spec, params)


def near_goals(u: jax.Array, spec: SwarmSpec, params: SwarmParams) -> Layout:
    """An open arena of tiles of 3 x 3 cells; all of an agent's poses and goals lie in one tile.

    u: random numbers in [0, 1), more than enough.
    An agent's poses are in one cell, and its goals go round the other eight, in an order that the tile shares.
    """
    num_agents, num_goals = spec.num_agents, spec.num_goals
    num_tiles = TILES[0] * TILES[1]
    u_order, u_turn, u_spawn, u_goal, u_heading = carve(
        u, (9 * num_tiles,), (num_tiles,), *[(num_agents, num_goals, 2)] * 2, (num_agents, num_goals, 1)
    )
    agent = np.arange(num_agents) % (9 * num_tiles)
    seat = shuffle(u_order, jnp.ones_like(u_order, bool))[agent]
    tile, cell = seat // 9, seat % 9
    shift = 1 + ((u_turn * 8).astype(jnp.int32)[tile][:, None] + 3 * np.arange(num_goals)[None]) % 8

    def point(cell, u):
        column, row = 3 * (tile // TILES[1])[:, None] + cell // 3, 3 * (tile % TILES[1])[:, None] + cell % 3
        centre = (jnp.stack([column, row], axis=-1).astype(jnp.float32) + 0.5) * NEAR_PITCH
        return centre + (2 * u - 1) * NEAR_JITTER

    spawns = jnp.concatenate([point(cell[:, None], u_spawn), (2 * u_heading - 1) * np.pi], axis=-1)
    fits = (jitter(params, NEAR_PITCH) >= NEAR_JITTER - TOLERANCE) & (num_agents <= 9 * num_tiles)
    layout = empty_layout(jnp.array(NEAR_SIZE, jnp.float32), spec)
    return layout.replace(spawns=spawns, goals=point((cell[:, None] + shift) % 9, u_goal), valid=fits)
