"""The records and arrays of E worlds of N agents that kernels work on, and their conversion from and to JAX's types.

All numbers of an agent lie side by side in one record, because loops go agent by agent. One array also costs less to hand
to a kernel than thirty. The public arrays are views of one field each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from entropy_env.engines.interface import state_shapes
from entropy_env.engines.numba_engine.compilation import spliced
from entropy_env.rewards import BUILT_IN
from entropy_env.types import (
    AT_REST,
    HEARD,
    INT_PARAMS,
    LASTING,
    PARAM_NAMES,
    PAYLOAD,
    Layout,
    SwarmParams,
    SwarmSpec,
    SwarmState,
    Ways,
    Words,
)

SMALLEST = SwarmSpec(num_agents=1, num_goals=1, num_walls=0, num_boxes=0, num_discs=0, num_corners=0)
STATE = vars(state_shapes(SMALLEST))
APART = ("layout", "words")  # fields with a tree of their own
WORLD_FIELDS = tuple(name for name, leaf in STATE.items() if name not in APART and not leaf.shape)
# What the force drive alone uses lies apart. A new field of the state works in either record.
MOTION_FIELDS = ("velocity", "angular_velocity", "rounding", "penetration")
AGENT_FIELDS = tuple(name for name in STATE if name not in (*APART, *WORLD_FIELDS, *MOTION_FIELDS))
PLACED = (
    "position",
    "heading",
    "goal_index",
)  # without a value in AT_REST: `respawn.standing` and its callers set these
if unset := STATE.keys() - AT_REST.keys() - {*APART, *PLACED}:
    raise NotImplementedError(
        f"SwarmState has fields without a value at rest that the Numba engine does not set: {unset}"
    )


def of_state(names: Iterable[str]) -> list[tuple[str, np.dtype, tuple[int, ...]]]:
    """Return fields of SwarmState as fields of a record, the widest numbers first."""
    fields = [(name, STATE[name].dtype, STATE[name].shape[1:]) for name in names]
    return sorted(fields, key=lambda field: -field[1].itemsize)


def resting(record: np.dtype, names: Sequence[str]) -> Any:
    """Return a compiled function that sets these fields of a record to their values at rest."""
    name, others = names[0], resting(record, names[1:]) if names[1:] else None
    value, length = AT_REST[name].value, record[name].shape[0] if record[name].shape else 0

    @spliced
    def rest(me):
        if length:
            for k in range(length):
                me[name][k] = value
        else:
            me[name] = value
        if others is not None:
            others(me)

    return rest


LISTED = 24  # longest list of neighbours; only robots several times faster than the default may have more

AGENT = np.dtype(
    [
        *of_state(AGENT_FIELDS),
        # the results of a step, some of which a reset changes in the state at once
        ("acted", np.bool_),
        ("active_before_reset", np.bool_),
        ("reached", np.bool_),
        ("collision", np.bool_),
        ("terminated", np.bool_),
        ("truncated", np.bool_),
        ("success", np.bool_),
        ("reward", np.float32),
        ("reward_terms", np.float32, len(BUILT_IN)),  # the built-in ones
        ("episode_return", np.float32),  # this step included
        ("episode_length", np.int32),
        ("goals_reached_before_reset", np.int32),
        # what one stage of a step leaves for the next
        ("return_so_far", np.float32),
        ("length_so_far", np.int32),
        ("goal", np.float32, 2),  # m, its goal when the step began
        ("distance", np.float32),  # m to that goal when the step began
        ("command", np.float32, 2),  # m/s, wheel speeds wanted
        ("wanted", np.float32, 2),  # m, the place that the drive alone would lead to
        ("move", np.float32, 2),  # m, the displacement that is safe
        ("asked", np.int32),  # column of the pose that it asks to respawn at, or -1
        ("cell", np.int32),
        ("num_near", np.int32),  # agents that it may touch in this step; more than LISTED are not listed
        ("num_near_fixed", np.int32),  # fixed bodies that it may touch in this step
        ("near", np.int32, LISTED),
    ],
    align=True,
)
MOTION = np.dtype(  # of the force drive, for each agent
    [
        *of_state(MOTION_FIELDS),
        # what one stage of a step leaves for the next; three numbers are vx, vy and the turn rate
        ("thrust", np.float64, 3),  # what the motors add in the next substep
        ("aim", np.float32, 2),  # m, the displacement that leads to the place wanted, unrounded
        ("before", np.float32, 2),  # vx and vy before damping and motors in this substep
        ("apart", np.float32, 2),  # m, by what its contacts part it at the place wanted
        ("change", np.float32, 6),  # what contacts add: the old and the new round, by turns
        ("num_contacts", np.int32),
        ("piled", np.bool_),  # whether it overlaps something too deep
    ],
    align=True,
)
WORLD = np.dtype(
    [
        *of_state(WORLD_FIELDS),
        ("over_before_reset", np.bool_),
        # what follows from the parameters: the functions of these names in `physics.contacts` explain most of them
        ("longest", np.float32),  # m, the longest displacement in a substep
        ("settling", np.float32),  # m, the largest change that storing a position makes to it
        ("clearance", np.float32),  # m, the gap up to which nobody may approach
        ("apart", np.float32),  # m, the least distance between the centres of agents that do not touch
        ("too_deep", np.float32),  # m of overlap that rounding cannot explain
        ("rest", np.float32),  # m, the gap kept in a crush
        ("reach", np.float32),  # m, how far from its surface an agent may meet a body in a control period
        ("lost", np.float64),  # fraction of a velocity that damping takes in a substep
        ("parted", np.float32),  # fraction of an overlap, beyond SLOP, that Chipmunk takes away in a substep
        # the cells that agents were last sorted into
        ("columns", np.int32),
        ("rows", np.int32),
        ("side", np.float32),  # m
    ],
    align=True,
)
PARAMS = np.dtype([(name, np.int32 if name in INT_PARAMS else np.float32) for name in PARAM_NAMES], align=True)
rest_world = resting(WORLD, WORLD_FIELDS)
rest_motion = resting(MOTION, MOTION_FIELDS)
rest_agent = resting(AGENT, [name for name in AGENT_FIELDS if name not in (*LASTING, *PLACED)])
rest_lasting = resting(AGENT, [name for name in AGENT_FIELDS if name in LASTING])


class Maps(NamedTuple):
    """The fields of `Layout`, for E worlds."""

    size: np.ndarray  # (E, 2) m
    walls: np.ndarray  # (E, W, 2, 2) m
    wall_mask: np.ndarray  # (E, W) bool
    boxes: np.ndarray  # (E, B, 4) m
    box_mask: np.ndarray  # (E, B) bool
    discs: np.ndarray  # (E, D, 3) m
    disc_mask: np.ndarray  # (E, D) bool
    spawns: np.ndarray  # (E, N, G, 3) m, m, rad
    goals: np.ndarray  # (E, N, G, 2) m
    valid: np.ndarray  # (E,) bool
    key: np.ndarray  # (E, 2) uint32
    team: np.ndarray  # (E, N) int32; without columns where teams do not matter


class WayMaps(NamedTuple):
    """The fields of `Ways`, for E worlds; all without entries if the option `geodesic` is off."""

    corners: np.ndarray  # (E, V, 2) m
    shadows: np.ndarray  # (E, M, 3, 2, V)
    ends: np.ndarray  # (E, N, G, 2) m
    left: np.ndarray  # (E, N, G, V) m
    hiding: np.ndarray  # (E, M) m


class Talk(NamedTuple):
    """What robots have said, as in `Words`, and what hearing them needs. H is 0 where nobody talks."""

    token: np.ndarray  # (E, N, H) int32
    payload: np.ndarray  # (E, N, H, 4)
    pose: np.ndarray  # (E, N, H, 3) m, m, rad
    to: np.ndarray  # (E, N, H) int32; H is 0 unless words are targeted
    credit: np.ndarray  # (E, N)
    spoken: np.ndarray  # (E, N) float32, 1 for who says a word in this step
    arriving: np.ndarray  # (E, N, 9) the words that arrive now, of who has one: see `comms.gather`
    near: np.ndarray  # (S, N + 1) int64 of one agent, on S threads: whom it may hear, see `comms.listen`
    nearest: np.ndarray  # (S, K) int64, whom it hears, nearest first
    ended: np.ndarray  # (E,) bool, whether an episode has just ended


class Swarms(NamedTuple):
    """All that a kernel reads and writes."""

    agents: np.ndarray  # (E, N) AGENT
    motions: np.ndarray  # (E, N) MOTION
    worlds: np.ndarray  # (E,) WORLD
    maps: Maps
    ways: WayMaps
    way_before: np.ndarray  # (E, N) m, along the shortest way when the step began; (E, 0) without `geodesic`
    obs: np.ndarray  # (E, N, obs_dim) float32, to act on next
    final_obs: np.ndarray  # (E, N, obs_dim) float32, of the agents whose episode ended
    weights: np.ndarray  # (E, terms) float32, of all reward terms: the built-in ones, then a user's own
    reward_terms: np.ndarray  # (E, N, terms) float32, all terms; without columns if a user has no own ones
    near_fixed: np.ndarray  # (E, N, K) int32; an agent may touch the first `num_near_fixed` in this step
    contacts: np.ndarray  # (S, N + K, 5) of one agent, on S threads: gap (m), normal (2), share, other agent
    cell_end: np.ndarray  # (E, cells) int32, where each cell's agents end in the sorted order
    sorted_agent: np.ndarray  # (E, N) int32, active agents cell by cell
    sorted_x: np.ndarray  # (E, N) m
    sorted_y: np.ndarray  # (E, N) m
    first_ray: np.ndarray  # (S, N) int32, on S threads: the first ray that may hit an agent of this run of cells
    ray_count: np.ndarray  # (S, N) int32, how many rays may hit it
    rays: np.ndarray  # (2, num_rays), cosine and sine of each ray in the robot's frame
    talk: Talk | tuple[()]  # empty unless `is_social`


def is_social(spec: SwarmSpec) -> bool:
    """Whether robots talk, come in pairs or teams, or are scouts. Only then the kernels for that are needed."""
    return spec.talks or spec.teams or spec.paired or bool(spec.num_scouts)


def empty_talk(spec: SwarmSpec, num_envs: int, num_threads: int) -> Talk | tuple[()]:
    """Return the words of robots that have said nothing, or nothing where `is_social` says so."""
    if not is_social(spec):
        return ()
    lanes, longest = (num_envs, spec.num_agents), spec.comm_history + 1 if spec.talks else 0
    targeted = spec.comm_channel == "targeted"
    return Talk(
        token=np.zeros((*lanes, longest), np.int32),
        payload=np.zeros((*lanes, longest, PAYLOAD), np.float32),
        pose=np.zeros((*lanes, longest, 3), np.float32),
        to=np.full((*lanes, longest if targeted else 0), -1, np.int32),
        credit=np.ones(lanes, np.float32),
        spoken=np.zeros(lanes, np.float32),
        arriving=np.zeros((*lanes, HEARD), np.float32),
        near=np.zeros((num_threads, spec.num_agents + 1), np.int64),
        nearest=np.zeros((num_threads, spec.comm_neighbours or 0), np.int64),
        ended=np.zeros(num_envs, bool),
    )


def empty_maps(spec: SwarmSpec, num_envs: int) -> Maps:
    """Return maps of zeros."""
    layout = state_shapes(spec).layout
    maps = {name: _zeros(getattr(layout, name), num_envs) for name in Maps._fields if name != "team"}
    return Maps(**maps, team=np.zeros((num_envs, spec.num_agents if spec.teams else 0), np.int32))


def empty_ways(spec: SwarmSpec, num_envs: int) -> WayMaps:
    """Return ways of zeros, or without entries."""
    ways = jax.eval_shape(lambda: Ways.empty(spec if spec.geodesic else SMALLEST))
    return WayMaps(*(_zeros(getattr(ways, name), num_envs if spec.geodesic else 0) for name in WayMaps._fields))


def _zeros(leaf: Any, num_envs: int) -> np.ndarray:
    return np.zeros((num_envs, *leaf.shape), leaf.dtype)


def empty_swarms(spec: SwarmSpec, num_envs: int, num_threads: int, num_cells: int) -> Swarms:
    """Return arrays of zeros, with the directions of the rays filled in."""
    lanes, fixed = (num_envs, spec.num_agents), 4 + spec.num_walls + spec.num_boxes + spec.num_discs
    num_terms = len(BUILT_IN) + len(spec.own_terms)
    angle = 2 * np.pi * np.arange(spec.num_rays) / spec.num_rays
    return Swarms(
        agents=np.zeros(lanes, AGENT),
        motions=np.zeros(lanes, MOTION),
        worlds=np.zeros(num_envs, WORLD),
        maps=empty_maps(spec, num_envs),
        ways=empty_ways(spec, num_envs),
        way_before=np.zeros((num_envs, spec.num_agents if spec.geodesic else 0), np.float32),
        obs=np.zeros((*lanes, spec.obs_dim), np.float32),
        final_obs=np.zeros((*lanes, spec.obs_dim), np.float32),
        weights=np.zeros((num_envs, num_terms), np.float32),
        reward_terms=np.zeros((*lanes, num_terms if spec.own_terms else 0), np.float32),
        near_fixed=np.zeros((*lanes, fixed), np.int32),
        contacts=np.zeros((num_threads, spec.num_agents + fixed, 5), np.float32),
        cell_end=np.zeros((num_envs, num_cells), np.int32),
        sorted_agent=np.zeros(lanes, np.int32),
        sorted_x=np.zeros(lanes, np.float32),
        sorted_y=np.zeros(lanes, np.float32),
        first_ray=np.zeros((num_threads, spec.num_agents), np.int32),
        ray_count=np.zeros((num_threads, spec.num_agents), np.int32),
        rays=np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32),
        talk=empty_talk(spec, num_envs, num_threads),
    )


def pack_params(params: SwarmParams, num_envs: int) -> np.ndarray:
    """Return (E,) PARAMS. Each parameter is a scalar, or has one value per world."""
    packed = np.empty(num_envs, PARAMS)
    for name in PARAMS.names or ():
        packed[name] = getattr(params, name)
    return packed


def pack_weights(weights: np.ndarray, params: SwarmParams, terms: Iterable[str]) -> None:
    """Write the weights of reward terms into (E, terms). Each is a scalar, or has one value per world."""
    for column, name in enumerate(terms):
        weights[:, column] = params.weight(name)


def map_bytes(maps: Maps | WayMaps) -> list[np.ndarray]:
    """Return the arrays of some maps as (E, ...) uint8 views."""
    return [array.reshape(len(array), -1).view(np.uint8) for array in maps if array.size]


def write_maps(maps: Maps, ways: WayMaps, layout: Layout, where: Any = slice(None)) -> None:
    """Copy a Layout into the maps and ways of the worlds at `where`, which are as many as the Layout has."""
    for name in Maps._fields:
        field = getattr(layout, name)
        getattr(maps, name)[where] = 0 if field is None else field  # without teams all are in one
    if layout.ways is not None:
        for name in WayMaps._fields:
            getattr(ways, name)[where] = getattr(layout.ways, name)


def read_layout(swarms: Swarms, where: Any = slice(None), ways: bool = True) -> Layout:
    """Return a copy of the Layout of the worlds at `where`. ways: with its shortest ways, if there are any."""
    maps: dict[str, Any] = {name: array[where].copy() for name, array in swarms.maps._asdict().items()}
    maps["team"] = maps["team"] if maps["team"].shape[1] else None
    if ways and swarms.way_before.size:
        return Layout(**maps, ways=Ways(**{name: array[where].copy() for name, array in swarms.ways._asdict().items()}))
    return Layout(**maps)


def write_state(swarms: Swarms, state: SwarmState) -> None:
    """Copy in a SwarmState of E worlds. It must have been checked, because kernels do not check goal indices."""
    write_maps(swarms.maps, swarms.ways, state.layout)
    for name in AGENT_FIELDS:
        swarms.agents[name] = getattr(state, name)
    for name in MOTION_FIELDS:
        swarms.motions[name] = getattr(state, name)
    for name in WORLD_FIELDS:
        swarms.worlds[name] = getattr(state, name)
    for name, array in words_of(swarms).items():
        array[...] = getattr(state.words, name)


def words_of(swarms: Swarms) -> dict[str, np.ndarray]:
    """Return the arrays of `Words` that are not None, by name. There are none where nobody talks."""
    talk = swarms.talk
    if not isinstance(talk, Talk) or not talk.token.size:
        return {}
    arrays = {name: getattr(talk, name) for name in Words.__dataclass_fields__}
    return {name: array for name, array in arrays.items() if array.size}


def read_state(swarms: Swarms) -> SwarmState:
    """Return a copy, as the SwarmState of E worlds with NumPy leaves."""
    fields: dict[str, Any] = {name: swarms.agents[name].copy() for name in AGENT_FIELDS}
    fields |= {name: swarms.motions[name].copy() for name in MOTION_FIELDS}
    fields |= {name: swarms.worlds[name].copy() for name in WORLD_FIELDS}
    words: dict[str, Any] = {name: array.copy() for name, array in words_of(swarms).items()}
    return SwarmState(layout=read_layout(swarms), words=Words(**{"to": None} | words) if words else None, **fields)
