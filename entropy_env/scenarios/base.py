"""The base class of layout generators, and the random numbers that all of them draw."""

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
from entropy_env.geometry import polygon_corners
from entropy_env.types import Layout, SwarmParams, SwarmSpec, SwarmState, Ways

LEVELS = (1, 2, 3, 4)
PACKED_BITS = 12  # bits of an index packed beside a score; with 4,096 items, one in 128 then shares its score
LOWEST = -1e30  # less than any number in a layout


class Purpose(enum.IntEnum):
    """What a random number decides. Comments give the axes of the array.

    Every layout depends on these values. Add new ones, but never change one.
    """

    ARENA = 1  # numbers for the arena as a whole: (use,)
    FAMILY = 2  # the family that a stage of the curriculum draws: (1,)
    CELLS = 3  # the order in which cells are taken: (column, row)
    SPAWNS = 4  # (goal, agent, axis)
    GOALS = 5  # (goal, agent, axis)
    HEADINGS = 6  # (goal, agent)
    UPRIGHT_BORDERS = 7  # between cells or rooms: (line from the left, row, use)
    FLAT_BORDERS = 8  # (line from the bottom, column, use)
    PLOTS = 9  # for obstacles: (column, row, use)
    UPRIGHT_LINES = 10  # between plots: (line from the left, row)
    FLAT_LINES = 11  # between plots: (line from the bottom,)
    TILES = 12  # tiles of 3 x 3 cells, with nearby goals: (column, row)


# The purposes that decide spawns and goals; the others decide walls and obstacles.
PLACEMENT = frozenset({Purpose.CELLS, Purpose.SPAWNS, Purpose.GOALS, Purpose.HEADINGS, Purpose.TILES})

Shapes = dict[Purpose, tuple[int, ...]]
Draws = Mapping[Purpose, jax.Array]


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A layout generator, sized for every difficulty up to `difficulty`. Hashable, so it can be a static argument."""

    difficulty: int = 1
    name: ClassVar[str]
    draws: ClassVar[bool] = True  # False if maps are given by hand; a world then resets to the map it has
    corners_per_wall: ClassVar[int] = 8  # the most that shortest ways may bend around: 4 at each end
    largest_disc: ClassVar[float] = 0.0  # m, radius of the largest disc
    more_room: ClassVar[str] = ""  # ends the error that not all agents fit: how to make room
    comm_neighbours: ClassVar[int] = 0  # speakers that robots hear, unless a user says otherwise
    team_rewards: ClassVar[bool] = False  # whether teams share rewards, unless a user says otherwise
    components: ClassVar[tuple[str, ...]] = ()  # of the observation, that only some scenarios have
    endings: ClassVar[tuple[str, ...]] = ("terminate", "respawn", "next_goal")  # what `on_goal` may be
    tells: ClassVar[bool] = False  # whether there is something to say that is known: see `truth`

    def __post_init__(self) -> None:
        object.__setattr__(self, "difficulty", as_count("difficulty", self.difficulty, DIFFICULTY))

    @property
    def max_steps(self) -> tuple[int, int, int, int]:
        """The time limit of each difficulty, in control periods."""
        return 200, 200, 200, 200

    @property
    def levels(self) -> tuple[int, ...]:
        """The difficulties this generator is sized for."""
        return LEVELS[: self.difficulty]

    def slots(self) -> dict[str, int]:
        """Return the `num_walls`, `num_boxes` and `num_discs` of the largest layout. Leave out those that are 0."""
        return {}

    def defaults(self, spec: SwarmSpec) -> dict[str, tuple[Any, Any, Any, Any]]:
        """Return default values of parameters, by name, for each difficulty."""
        return {"max_steps": self.max_steps}

    def check(self, spec: SwarmSpec) -> None:
        """Raise ValueError if this scenario cannot be had with a specification."""
        if spec.on_goal not in self.endings:
            raise ValueError(f"on_goal={spec.on_goal!r}: scenario {self.name!r} takes only {', '.join(self.endings)}")

    def capacity(self, level: int, params: SwarmParams) -> int:
        """Return how many agents are sure to fit at this difficulty, for any key. params: concrete numbers."""
        raise NotImplementedError

    def generate(self, key: jax.Array, spec: SwarmSpec, params: SwarmParams) -> Layout:
        """Draw one layout for `params.difficulty`. It may be traced, and above what this generator is sized for.

        Draw all numbers with `uniforms`. The same walls can then be drawn again with other spawns and goals, as
        `max_steps="never"` needs. If walls are drawn in another way, agents use their spawns and goals again instead.
        """
        raise NotImplementedError

    def truth(self, state: SwarmState, params: SwarmParams, spec: SwarmSpec) -> tuple[jax.Array, jax.Array]:
        """Return what each agent of a world ought to say: tokens (N,) int32, 0 for silence, and payloads (N, 4) float32.

        Inactive agents are silent. Only scenarios whose `tells` is True know what to say.
        """
        raise NotImplementedError(f"scenario {self.name!r} has no ground truth of what to say")

    def row(self, table: Any, params: SwarmParams) -> jax.Array:
        """Return the row for the traced difficulty from a table (4, ...) with one row per difficulty.

        All four rows are used, also those above the difficulty this generator is sized for. With a constant instead,
        XLA would round differently.
        """
        table = np.asarray(table)
        table = table.astype(np.float32 if table.dtype.kind == "f" else np.int32)
        value = jnp.asarray(table[0])
        # A chain of `where` instead of indexing: a lookup that XLA fuses into a loop over cells prevents vectorisation.
        for level, entry in zip(LEVELS[1:], table[1:], strict=True):
            value = jnp.where(params.difficulty >= level, entry, value)
        return value

    def largest(self, table: Any) -> Any:
        """Return the largest value of each column, over the difficulties this generator is sized for. table: (4, ...)."""
        return np.max(np.asarray(table)[: self.difficulty], axis=0).tolist()

    def sized_for(self, params: SwarmParams) -> jax.Array:
        """Whether the traced difficulty is one that this generator is sized for, () bool."""
        difficulty = jnp.asarray(params.difficulty)
        return (difficulty >= 1) & (difficulty <= self.difficulty)


def corners_for(
    slots: Mapping[str, int], largest_disc: float, per_wall: int = Scenario.corners_per_wall
) -> dict[str, int]:
    """Return the `disc_corners`, and how many corners bodies have at most as `num_corners`.

    slots: their `num_walls`, `num_boxes` and `num_discs`. largest_disc: m, radius.
    """
    around_disc = polygon_corners(largest_disc + float(SwarmParams().agent_radius))
    most = per_wall * slots["num_walls"] + 8 * slots["num_boxes"] + around_disc * slots["num_discs"]
    return {"disc_corners": around_disc, "num_corners": most}


def empty_layout(size: jax.Array, spec: SwarmSpec) -> Layout:
    """Return an arena without obstacles, spawns or goals. size: (2,) m."""
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
        ways=Ways.empty(spec) if spec.geodesic else None,
        team=jnp.zeros(spec.num_agents, jnp.int32) if spec.teams else None,
    )


def fill_slots(slots: jax.Array, mask: jax.Array, items: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Put `items` (M, ...) into the first M slots. Returns the slots and their mask. present: (M,) bool, the items in use."""
    count = items.shape[0]
    return slots.at[:count].set(items), mask.at[:count].set(present)


def uniforms(key: jax.Array, shapes: Shapes) -> dict[Purpose, jax.Array]:
    """Draw float32 numbers in [0, 1) for each purpose, in arrays of up to three dimensions.

    Each number depends only on the key, its purpose and its index. Arrays of different shapes therefore agree at the
    indices that both have. One hash draws all purposes, since each hash costs about 30 ms of compile time.

    key: any kind of JAX key. In a key of four words, the first two decide the walls and the last two the spawns and
    goals, so the same walls can be drawn with other spawns and goals (`Swarm.fresh_row`).
    """
    words = jax.random.key_data(key)
    if len(words) == 2:
        return _uniforms(words, shapes)
    placement = {purpose: shape for purpose, shape in shapes.items() if purpose in PLACEMENT}
    rest = {purpose: shape for purpose, shape in shapes.items() if purpose not in PLACEMENT}
    return _uniforms(words[:2], rest) | _uniforms(words[-2:], placement)


def _uniforms(words: jax.Array, shapes: Shapes) -> dict[Purpose, jax.Array]:
    """Draw as `uniforms` does, from a key of two words (2,) uint32."""
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
    """Return two words (M,) uint32 for each number, a different pair for each.

    The first word is never 0, so the pairs also differ from the counters that JAX uses to split or fold a key.
    """
    full = (*shape, 1, 1)[:3]
    i, j, k = (jax.lax.broadcasted_iota(jnp.uint32, full, axis).reshape(-1) for axis in range(3))
    return jnp.uint32(purpose << 24) | i, (j << 8) | k


def rounded(product: jax.Array) -> jax.Array:
    """Return the product unchanged, but rounded to float32.

    XLA may fuse a product and a sum into one operation that does not round the product (fused multiply-add). Without
    this, the last digit of a layout would depend on the code compiled around it.
    """
    return jnp.maximum(product, LOWEST)


def shuffle(score: jax.Array, chosen: jax.Array) -> jax.Array:
    """Return indices along the last axis, (..., M) int32: the chosen ones first, each group in the order of its scores.

    score: (..., M) in [0, 1). chosen: (..., M) bool.
    Score and index are packed into one integer, which XLA sorts several times faster than floats with indices. The
    number of bits for the index is fixed: if it depended on M, so would the order of two items with close scores.
    """
    size = score.shape[-1]
    index = jnp.broadcast_to(jnp.arange(size, dtype=jnp.uint32), score.shape)
    last = jnp.where(chosen, jnp.uint32(0), jnp.uint32(1 << 31))
    if size > 1 << PACKED_BITS:
        rank = (score * float(1 << 31)).astype(jnp.uint32)
        return jax.lax.sort((last | rank, index), num_keys=1)[1].astype(jnp.int32)
    rank = (score * float(1 << (31 - PACKED_BITS))).astype(jnp.uint32) << PACKED_BITS
    return (jnp.sort(last | rank | index, axis=-1) & jnp.uint32((1 << PACKED_BITS) - 1)).astype(jnp.int32)
