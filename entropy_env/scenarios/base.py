"""What a family of layouts offers the simulator, and what all generators draw from."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.checks import DIFFICULTY, as_count
from entropy_env.types import Layout, SwarmParams, SwarmSpec

LEVELS = (1, 2, 3, 4)
PACKED_BITS = 12  # of an index at most beside a score; with 4,096 items one in 128 then shares its score with another


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A layout generator, sized for every difficulty up to `difficulty`. Hashable, so that it can be static."""

    difficulty: int = 1
    name: ClassVar[str]
    draws: ClassVar[bool] = True  # False where every map is given by hand, and an episode begins again on its own
    more_room: ClassVar[str] = ""  # what to do about it, where not everyone fits

    def __post_init__(self) -> None:
        object.__setattr__(self, "difficulty", as_count("difficulty", self.difficulty, DIFFICULTY))

    @property
    def max_steps(self) -> tuple[int, int, int, int]:
        """Control periods, for each difficulty."""
        return 200, 200, 200, 200

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

    def row(self, table: Any, params: SwarmParams) -> jax.Array:
        """The entry of a table with one row a difficulty, at the traced difficulty. table: (4, ...)."""
        table = np.asarray(table)
        table = table.astype(np.float32 if table.dtype.kind == "f" else np.int32)
        value = jnp.asarray(table[0])
        # not indexed: a lookup fused into a loop over cells keeps it from being vectorised
        for level, entry in zip(self.levels[1:], table[1:], strict=False):
            value = jnp.where(params.difficulty >= level, entry, value)
        return value

    def largest(self, table: Any) -> Any:
        """Column by column, the largest entry of a table with one row a difficulty. table: (4, ...)."""
        return np.max(np.asarray(table)[: self.difficulty], axis=0).tolist()

    def sized_for(self, params: SwarmParams) -> jax.Array:
        """() bool: whether the traced difficulty is one this generator has room for."""
        difficulty = jnp.asarray(params.difficulty)
        return (difficulty >= 1) & (difficulty <= self.difficulty)


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


def uniforms(key: jax.Array, *shapes: tuple[int, ...]) -> list[jax.Array]:
    """Arrays of these shapes, uniform in [0, 1), out of one draw: every draw costs a quarter second of compile time."""
    return carve(jax.random.uniform(key, (sum(map(math.prod, shapes)),)), *shapes)


def carve(u: jax.Array, *shapes: tuple[int, ...]) -> list[jax.Array]:
    """Arrays of these shapes out of the first numbers of u, (M,)."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(jnp.split(u[: ends[-1]], ends[:-1]), shapes, strict=True)]


def shuffle(score: jax.Array, chosen: jax.Array) -> jax.Array:
    """(..., M) int32: indices along the last axis, the chosen ones first, in the order of their score.

    score: (..., M) in [0, 1). chosen: (..., M) bool. Score and index share one integer, because XLA sorts those
    several times faster than floats with their indices, as long as that leaves enough bits to tell scores apart.
    """
    size = score.shape[-1]
    index_bits = max(size - 1, 1).bit_length()
    index = jnp.broadcast_to(jnp.arange(size, dtype=jnp.uint32), score.shape)
    last = jnp.where(chosen, jnp.uint32(0), jnp.uint32(1 << 31))
    if index_bits > PACKED_BITS:
        rank = (score * float(1 << 31)).astype(jnp.uint32)
        return jax.lax.sort((last | rank, index), num_keys=1)[1].astype(jnp.int32)
    rank = (score * float(1 << (31 - index_bits))).astype(jnp.uint32) << index_bits
    return (jnp.sort(last | rank | index, axis=-1) & jnp.uint32((1 << index_bits) - 1)).astype(jnp.int32)
