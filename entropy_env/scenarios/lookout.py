"""Two rooms and two corridors, of which only scouts on the far side can see which is open."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.geometry import in_own_frame
from entropy_env.scenarios.base import Purpose, Scenario, empty_layout, fill_slots, rounded, uniforms
from entropy_env.scenarios.placement import (
    PITCH,
    TOLERANCE,
    cell_grid,
    jitter,
    margin,
    place,
    place_shapes,
    room_between,
)
from entropy_env.scenarios.talk import NEIGHBOURS, check_even, found, shared
from entropy_env.types import Layout, SwarmParams, SwarmSpec, SwarmState

ROOM = (3.0, 5.0)  # m, width and height of each of the two rooms
LENGTHS = (4.5, 5.0, 5.5, 6.0)  # m, of the corridors
WIDTH, APART = 0.6, 3.0  # m, of a corridor, and between the middles of the two
MOUTHS = ((ROOM[1] - APART) / 2, (ROOM[1] + APART) / 2)  # m, y of the middles
CLOSED = 0.3  # m, the part of one corridor that is closed, on the far side
SEEN_FROM = 2.5  # m, the most from a scout to either far mouth
DEPTH, SPREAD = (
    1.0,
    2.0,
)  # m, along x and y, of the places at the back of a room where carriers start, and where they go
LOW, HIGH = (ROOM[1] - SPREAD) / 2, (ROOM[1] + SPREAD) / 2  # m, y of these places
PLUG = 3  # slot of the box that closes a corridor
SCOUTS, STARTS, ENDS = range(3)  # zones of cells
STREAMS = np.array([[SCOUTS, SCOUTS], [STARTS, ENDS]])


class Lookout(Scenario):
    """The first half of the robots are scouts in the far room. The others, carriers, have to come there.

    Rooms of 3 x 5 m are joined by two straight corridors, 0.6 m wide, 3 m apart, and 4.5, 5, 5.5 or 6 m long by difficulty,
    so that no lidar sees through. One of them, drawn at random, is closed over its last 0.3 m. Scouts start within 2.5 m of
    both far mouths, with nothing between. They may drive, and have no goal. Carriers start at the back of the near room, in
    1 x 2 m, and go to such a place of the far one, so that the ways through both corridors are about as long.

    `max_steps` is the time that the longest shortest way takes at 1 m/s, and a quarter more, rounded up. A carrier that has
    to turn back in the wrong corridor is late.
    """

    name = "lookout"
    endings: ClassVar[tuple[str, ...]] = ("terminate",)
    comm_neighbours: ClassVar[int] = NEIGHBOURS
    team_rewards: ClassVar[bool] = True
    components: ClassVar[tuple[str, ...]] = ("role",)
    tells: ClassVar[bool] = True

    @property
    def max_steps(self) -> tuple[int, int, int, int]:
        """See above. The longest shortest way is that between the corners of the places which are farthest off."""
        params = SwarmParams()
        speed = float(params.max_wheel_speed) * float(params.dt)  # m a step
        one, two, three, four = (math.ceil(1.25 * longest_way(length, params) / speed) for length in LENGTHS)
        return one, two, three, four

    def slots(self) -> dict[str, int]:
        return {"num_boxes": 4}

    def defaults(self, spec: SwarmSpec) -> dict[str, tuple[Any, Any, Any, Any]]:
        return super().defaults(spec) | shared(spec) | {"comm_range": (20.0,) * 4}

    def check(self, spec: SwarmSpec) -> None:
        super().check(spec)
        check_even(self.name, spec)

    def capacity(self, level: int, params: SwarmParams) -> int:
        if jitter(params) < 0:
            return 0
        x, y = ((np.arange(int(length / PITCH)) + 0.5) * PITCH for length in ROOM)  # of cells in the far room
        x, y = x[:, None], y[None]
        inside = np.minimum(np.minimum(x, ROOM[0] - x), np.minimum(y, ROOM[1] - y)) >= margin(params) - TOLERANCE
        seen = np.all([np.hypot(x, y - mouth) <= SEEN_FROM for mouth in MOUTHS], axis=0)
        end = np.minimum(x - (ROOM[0] - DEPTH), np.minimum(y - LOW, HIGH - y)) >= 0
        return 2 * int(min(np.sum(inside & seen), np.sum(inside & end)))

    def generate(self, key: jax.Array, spec: SwarmSpec, params: SwarmParams) -> Layout:
        width, height = ROOM
        largest = (2 * width + self.largest(LENGTHS), height)
        u = uniforms(key, {Purpose.ARENA: (1,)} | place_shapes(largest, spec))
        far = width + self.row(LENGTHS, params)
        layout = empty_layout(jnp.stack([far + width, jnp.float32(height)]), spec)
        boxes = self._boxes(u[Purpose.ARENA][0] < 0.5, far)
        boxes, box_mask = fill_slots(layout.boxes, layout.box_mask, boxes, jnp.ones(len(boxes), bool))

        centres, _ = cell_grid(layout.size, largest)
        spawns, goals, fits = place(u, centres, self._zones(centres, far, params), STREAMS, 2, spec, params)
        order = np.concatenate([np.arange(part, spec.num_agents, 2) for part in (0, 1)])  # scouts, then carriers
        spawns, goals = spawns[order], goals[order]
        goals = jnp.where(spec.is_scout[:, None, None], spawns[..., :2], goals)
        return layout.replace(
            boxes=boxes, box_mask=box_mask, spawns=spawns, goals=goals, valid=fits & self.sized_for(params)
        )

    def _boxes(self, lower: jax.Array, far: jax.Array) -> jax.Array:
        """Return what is below, between and above the corridors, and what closes one, (4, 4) m.

        lower: () bool, the lower one is closed. far: () m, where the far room begins.
        """
        edges = np.array([0, *(mouth + side * WIDTH / 2 for mouth in MOUTHS for side in (-1, 1)), ROOM[1]])
        low, high = edges[::2].astype(np.float32), edges[1::2].astype(np.float32)
        x, half = (ROOM[0] + far) / 2, (far - ROOM[0]) / 2
        bodies = [jnp.stack([x, (a + b) / 2, half, (b - a) / 2]) for a, b in zip(low, high, strict=True)]
        mouth = jnp.where(lower, np.float32(MOUTHS[0]), np.float32(MOUTHS[1]))
        plug = [far - np.float32(CLOSED / 2), mouth, *map(jnp.float32, (CLOSED / 2, WIDTH / 2))]
        return jnp.stack([*bodies, jnp.stack(plug)])

    def _zones(self, centres: jax.Array, far: jax.Array, params: SwarmParams) -> jax.Array:
        """Return the room (3, C) m of cells for scouts, starts and goals. centres: (C, 2) m."""
        depth, (width, height) = DEPTH, ROOM

        def in_room(left: jax.Array) -> jax.Array:
            low, high = jnp.stack([left, jnp.float32(0)]), jnp.stack([left + width, jnp.float32(height)])
            return room_between(centres, low[None], high[None], params)

        near_room, far_room = in_room(jnp.float32(0)), in_room(far)
        rows = (centres[:, 1] > LOW) & (centres[:, 1] < HIGH)
        start = jnp.where(rows & (centres[:, 0] < depth), near_room, -1.0)
        end = jnp.where(rows & (centres[:, 0] > far + width - depth), far_room, -1.0)
        x = centres[:, 0] - far
        away = [jnp.sqrt(rounded(x * x) + rounded(jnp.square(centres[:, 1] - np.float32(y)))) for y in MOUTHS]
        seen = rounded((SEEN_FROM - jnp.maximum(*away)) * math.sqrt(0.5))
        return jnp.stack([jnp.minimum(far_room, seen), start, end])

    def truth(self, state: SwarmState, params: SwarmParams, spec: SwarmSpec) -> tuple[jax.Array, jax.Array]:
        """Scouts tell the far mouth of the open corridor in payload[2:4]. Carriers are silent. See `Scenario.truth`."""
        plug = state.layout.boxes[PLUG]
        mouth = jnp.stack([plug[0] + plug[2], ROOM[1] - plug[1]])
        offset = in_own_frame((mouth[None] - state.position) / params.goal_scale, state.heading)
        return found(state.active & spec.is_scout, jnp.zeros_like(offset), offset)


def longest_way(length: float, params: SwarmParams) -> float:
    """Return the longest shortest way of a carrier, m, through corridors of a length, m.

    It leads from one of the places farthest from the mouth, straight towards the mouth's inner corner, around it at a
    robot's radius, and along the corridor. The other half is its mirror image.
    """
    radius = float(params.agent_radius)
    reach = min(float(jitter(params)), PITCH / 2 - float(margin(params)))  # m, from the middle of the farthest cell
    along, aside = (
        ROOM[0] - (PITCH / 2 - reach),
        HIGH - (PITCH / 2 - reach) - (MOUTHS[0] + WIDTH / 2),
    )  # m, to the corner
    straight = math.sqrt(along**2 + aside**2 - radius**2)
    turn = math.atan2(aside, along) + math.atan2(radius, straight)
    return length + 2 * (straight + radius * turn)
