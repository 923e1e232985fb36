"""What a family of layouts offers the simulator."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from entropy_env.types import Layout, SwarmParams, SwarmSpec

LEVELS = (1, 2, 3, 4)


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A layout generator, sized for every difficulty up to `difficulty`. Hashable, so that it can be static."""

    difficulty: int = 1
    name: ClassVar[str]
    max_steps: ClassVar[tuple[int, int, int, int]] = (200, 200, 200, 200)  # control periods, for each difficulty

    def __post_init__(self) -> None:
        if self.difficulty not in LEVELS:
            raise ValueError(f"difficulty={self.difficulty!r} must be one of {', '.join(map(str, LEVELS))}")

    @property
    def levels(self) -> tuple[int, ...]:
        """The difficulties this generator is sized for."""
        return LEVELS[: self.difficulty]

    def slots(self) -> dict[str, int]:
        """`num_walls`, `num_boxes` and `num_discs` that the largest layout fills; absent for none."""
        return {}

    def capacity(self, level: int, params: SwarmParams) -> int:
        """How many agents are sure to fit at a difficulty, whatever the key. params: concrete numbers."""
        raise NotImplementedError

    def generate(self, key: jax.Array, spec: SwarmSpec, params: SwarmParams) -> Layout:
        """One layout for `params.difficulty`, which may be traced and above what this generator is sized for."""
        raise NotImplementedError

    def row(self, table, params: SwarmParams) -> jax.Array:
        """The entry of a table with one row a difficulty, at the traced difficulty. table: (4, ...)."""
        return jnp.asarray(table)[jnp.clip(params.difficulty, 1, self.difficulty) - 1]

    def sized_for(self, params: SwarmParams) -> jax.Array:
        """() bool: whether the traced difficulty is one this generator has room for."""
        return (params.difficulty >= 1) & (params.difficulty <= self.difficulty)


def empty_layout(size: jax.Array, spec: SwarmSpec) -> Layout:
    """An arena without obstacles, spawns or goals. size: (2,) m."""
    return Layout(
        size=size,
        walls=jnp.zeros((spec.num_walls, 2, 2), jnp.float32),
        wall_mask=jnp.zeros(spec.num_walls, bool),
        boxes=jnp.zeros((spec.num_boxes, 4), jnp.float32),
        box_mask=jnp.zeros(spec.num_boxes, bool),
        discs=jnp.zeros((spec.num_discs, 3), jnp.float32),
        disc_mask=jnp.zeros(spec.num_discs, bool),
        spawns=jnp.zeros((spec.num_agents, spec.num_goals, 3), jnp.float32),
        goals=jnp.zeros((spec.num_agents, spec.num_goals, 2), jnp.float32),
        valid=jnp.array(True),
    )


def fill_slots(slots: jax.Array, mask: jax.Array, items: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Slots and their mask with `items` (M, ...) in the first M, of which `present` (M,) bool are there."""
    count = items.shape[0]
    return slots.at[:count].set(items), mask.at[:count].set(present)
