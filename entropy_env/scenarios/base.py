"""What a family of layouts offers the simulator, and what all generators draw from."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32

from entropy_env.checks import DIFFICULTY, as_count
from entropy_env.types import Layout, SwarmParams, SwarmSpec

LEVELS = (1, 2, 3, 4)
PACKED_BITS = 12  # of an index beside a score; with 4,096 items one in 128 then shares its score with another
LOWEST = -1e30  # below every number of a layout


class Purpose(enum.IntEnum):
    """What a random number is for, and how its place is counted. Every world depends on these values: only add to them."""

    ARENA = 1  # what there is one of: (use,)
    FAMILY = 2  # of a curriculum's stage: (1,)
    CELLS = 3  # which cells are taken first: (column, row)
    SPAWNS = 4  # (goal, agent, axis)
    GOALS = 5  # (goal, agent, axis)
    HEADINGS = 6  # (goal, agent)
    UPRIGHT_BORDERS = 7  # between cells or rooms: (line from the left, row, use)
    FLAT_BORDERS = 8  # (line from the bottom, column, use)
    PLOTS = 9  # of obstacles: (column, row, use)
    UPRIGHT_LINES = 10  # between plots: (line from the left, row)
    FLAT_LINES = 11  # (line from the bottom,)
    TILES = 12  # of cells with nearby goals: (column, row)


PLACEMENT = frozenset({Purpose.CELLS, Purpose.SPAWNS, Purpose.GOALS, Purpose.HEADINGS, Purpose.TILES})  # not walls

Shapes = dict[Purpose, tuple[int, ...]]
Draws = Mapping[Purpose, jax.Array]


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
        """One layout for `params.difficulty`, which may be traced and above what this generator is sized for.

        Draw with `uniforms`: then the map can be had again with other spawns and goals, which `max_steps="never"` needs.
        With walls drawn otherwise, an agent's row of spawns and goals comes again instead.
        """
        raise NotImplementedError

    def row(self, table: Any, params: SwarmParams) -> jax.Array:
        """The entry of a table with one row a difficulty, at the traced difficulty. table: (4, ...).

        Also beyond what this generator is sized for: with a constant instead, XLA would round otherwise.
        """
        table = np.asarray(table)
        table = table.astype(np.float32 if table.dtype.kind == "f" else np.int32)
        value = jnp.asarray(table[0])
        # not indexed: a lookup fused into a loop over cells keeps it from being vectorised
        for level, entry in zip(LEVELS[1:], table[1:], strict=True):
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
        key=jnp.zeros(2, jnp.uint32),
    )


def fill_slots(slots: jax.Array, mask: jax.Array, items: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Slots and their mask with `items` (M, ...) in the first M, of which `present` (M,) bool are there."""
    count = items.shape[0]
    return slots.at[:count].set(items), mask.at[:count].set(present)


def uniforms(key: jax.Array, shapes: Shapes) -> dict[Purpose, jax.Array]:
    """Random numbers in [0, 1), float32, in up to three dimensions for each purpose.

    A number follows from the key, its purpose and its place in the array alone, so the corner that two arrays share is
    equal whatever their shapes. One hash makes them all: each costs some 30 ms of compile time.

    key: of any of JAX's kinds. Of one with four words the first two decide the walls and the last two the spawns and
    goals, so that a map can be had again with others (`Swarm.fresh_row`).
    """
    words = jax.random.key_data(key)
    if len(words) == 2:
        return _uniforms(words, shapes)
    placement = {purpose: shape for purpose, shape in shapes.items() if purpose in PLACEMENT}
    rest = {purpose: shape for purpose, shape in shapes.items() if purpose not in PLACEMENT}
    return _uniforms(words[:2], rest) | _uniforms(words[-2:], placement)


def _uniforms(words: jax.Array, shapes: Shapes) -> dict[Purpose, jax.Array]:
    """`uniforms` from the two words (2,) uint32 of a key."""
    if not shapes:
        return {}
    places = [_counters(purpose, shape) for purpose, shape in shapes.items()]
    high, low = (jnp.concatenate(counters) for counters in zip(*places, strict=True))
    bits, _ = jnp.split(threefry_2x32((words[0], words[1]), jnp.concatenate([high, low])), 2)
    ones = jax.lax.bitcast_convert_type((bits >> 9) | jnp.uint32(0x3F800000), jnp.float32)  # in [1, 2)
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = jnp.split(ones - 1.0, ends[:-1])
    return {purpose: part.reshape(shape) for (purpose, shape), part in zip(shapes.items(), parts, strict=True)}


def _counters(purpose: Purpose, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Two words (M,) uint32 that no two numbers share; splitting a key and folding into one leave the first at 0."""
    full = (*shape, 1, 1)[:3]
    i, j, k = (jax.lax.broadcasted_iota(jnp.uint32, full, axis).reshape(-1) for axis in range(3))
    return jnp.uint32(purpose << 24) | i, (j << 8) | k


def rounded(product: jax.Array) -> jax.Array:
    """The same number, as float32 rounds it.

    A product that is only added to something may be left unrounded (fused multiply-add), where XLA and the processor
    like: the last digit of a layout would depend on what else is compiled with it.
    """
    return jnp.maximum(product, LOWEST)


def shuffle(score: jax.Array, chosen: jax.Array) -> jax.Array:
    """(..., M) int32: indices along the last axis, the chosen ones first, in the order of their score.

    score: (..., M) in [0, 1). chosen: (..., M) bool. Score and index share one integer, because XLA sorts those
    several times faster than floats with their indices, as long as that leaves enough bits to tell scores apart. How
    many is not left to M, on which the order of two of the items would then depend.
    """
    size = score.shape[-1]
    index = jnp.broadcast_to(jnp.arange(size, dtype=jnp.uint32), score.shape)
    last = jnp.where(chosen, jnp.uint32(0), jnp.uint32(1 << 31))
    if size > 1 << PACKED_BITS:
        rank = (score * float(1 << 31)).astype(jnp.uint32)
        return jax.lax.sort((last | rank, index), num_keys=1)[1].astype(jnp.int32)
    rank = (score * float(1 << (31 - PACKED_BITS))).astype(jnp.uint32) << PACKED_BITS
    return (jnp.sort(last | rank | index, axis=-1) & jnp.uint32((1 << PACKED_BITS) - 1)).astype(jnp.int32)
