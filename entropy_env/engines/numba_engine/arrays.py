"""What the kernels work on: E worlds of N agents as records and arrays, and their way from and to the JAX side's types.

All that belongs to one agent lies together in one record, which is what a loop over agents wants, and one array costs
less to hand to a kernel than thirty. The public arrays are views of one field each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from entropy_env.engines.interface import state_shapes
from entropy_env.engines.numba_engine.compilation import inlined
from entropy_env.rewards import BUILT_IN
from entropy_env.types import (
    AT_REST,
    INT_PARAMS,
    LASTING,
    OBSERVATION,
    PARAM_NAMES,
    Layout,
    SwarmParams,
    SwarmSpec,
    SwarmState,
)

STATE = vars(state_shapes(SwarmSpec(num_agents=1, num_goals=1, num_walls=0, num_boxes=0, num_discs=0)))
WORLD_FIELDS = tuple(name for name, leaf in STATE.items() if name != "layout" and not leaf.shape)
# What the force drive alone uses lies apart. A new field of the state works in either record.
MOTION_FIELDS = ("velocity", "angular_velocity", "rounding", "penetration")
AGENT_FIELDS = tuple(name for name in STATE if name not in ("layout", *WORLD_FIELDS, *MOTION_FIELDS))
PLACED = ("position", "heading", "goal_index")  # without a value in AT_REST: `step.stand` and its callers set these
if unset := STATE.keys() - AT_REST.keys() - {"layout", *PLACED}:
    raise NotImplementedError(
        f"SwarmState has fields without a value at rest that the Numba engine does not set: {unset}"
    )


def of_state(names: Iterable[str]) -> list[tuple[str, np.dtype, tuple[int, ...]]]:
    """Fields of SwarmState as those of a record, the widest numbers first."""
    fields = [(name, STATE[name].dtype, STATE[name].shape[1:]) for name in names]
    return sorted(fields, key=lambda field: -field[1].itemsize)


def resting(record: np.dtype, names: Sequence[str]) -> Any:
    """Return a compiled function that sets these fields of a record to their values at rest."""
    name, others = names[0], resting(record, names[1:]) if names[1:] else None
    value, length = AT_REST[name].value, record[name].shape[0] if record[name].shape else 0

    @inlined
    def rest(me):
        if length:
            for k in range(length):
                me[name][k] = value
        else:
            me[name] = value
        if others is not None:
            others(me)

    return rest


LISTED = 24  # neighbours kept in a list; more have room only around robots several times faster than the default

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
        # what one room of a step leaves for the next
        ("return_so_far", np.float32),
        ("length_so_far", np.int32),
        ("goal", np.float32, 2),  # m, where it is bound for
        ("distance", np.float32),  # m to the goal when the step began
        ("command", np.float32, 2),  # m/s, wheel speeds wanted
        ("wanted", np.float32, 2),  # m, where the drive alone would lead
        ("move", np.float32, 2),  # m, the displacement that is safe
        ("asked", np.int32),  # the column of the pose to respawn at, or -1
        ("cell", np.int32),
        ("num_near", np.int32),  # agents that may be touched in this step; above LISTED they are not listed
        ("num_near_fixed", np.int32),
        ("near", np.int32, LISTED),
    ],
    align=True,
)
MOTION = np.dtype(  # of the force drive, for each agent
    [
        *of_state(MOTION_FIELDS),
        # what one room of a step leaves for the next; three numbers are vx, vy and the turn rate
        ("thrust", np.float64, 3),  # by the motors in the substep that comes
        ("aim", np.float32, 2),  # m, the displacement that leads to where it wants to go, unrounded
        ("before", np.float32, 2),  # vx and vy before damping and motors in this substep
        ("apart", np.float32, 2),  # m, by which its contacts part where it wants to go
        ("change", np.float32, 6),  # by contacts, the old and the new by turns
        ("num_contacts", np.int32),
        ("piled", np.bool_),  # overlaps something too deep
    ],
    align=True,
)
WORLD = np.dtype(
    [
        *of_state(WORLD_FIELDS),
        ("over_before_reset", np.bool_),
        ("longest", np.float32),  # m, which no displacement in a substep exceeds
        ("settling", np.float32),  # m, the most by which storing a position changes it
        ("clearance", np.float32),  # m, under which nobody approaches anything
        ("apart", np.float32),  # m, between the centres of agents that hardly touch
        ("too_deep", np.float32),  # m of overlap that no rounding explains
        ("rest", np.float32),  # m, between bodies in a crush
        ("reach", np.float32),  # m, how far off a body may matter to an agent in a control period
        ("lost", np.float64),  # share of a velocity that damping takes in a substep
        ("parted", np.float32),  # share of an overlap, above SLOP, that Chipmunk takes away in a substep
        ("columns", np.int32),  # of the cells that agents were last sorted into
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
    """`Layout`, of E worlds."""

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


class Swarms(NamedTuple):
    """All that a kernel reads and writes."""

    agents: np.ndarray  # (E, N) AGENT
    motions: np.ndarray  # (E, N) MOTION
    worlds: np.ndarray  # (E,) WORLD
    maps: Maps
    obs: np.ndarray  # (E, N, obs_dim) float32, to act on next
    final_obs: np.ndarray  # (E, N, obs_dim) float32, of those who ended
    weights: np.ndarray  # (E, terms) float32, of all reward terms: the built-in ones, then a user's own
    reward_terms: np.ndarray  # (E, N, terms) float32, all of them, where a user has own ones; else without columns
    near_fixed: np.ndarray  # (E, N, K) int32, the first `num_near_fixed` fixed bodies may be touched in this step
    contacts: np.ndarray  # (S, N + K, 5) of one agent, on S threads: gap (m), normal (2), share, which agent
    cell_end: np.ndarray  # (E, cells) int32, where each cell's agents end in the sorted order
    sorted_agent: np.ndarray  # (E, N) int32, active agents cell by cell
    sorted_x: np.ndarray  # (E, N) m
    sorted_y: np.ndarray  # (E, N) m
    first_ray: np.ndarray  # (S, N) int32, of those that touch an agent of this run of cells, on S threads
    ray_count: np.ndarray  # (S, N) int32
    rays: np.ndarray  # (2, num_rays), cosine and sine of each ray in the robot's frame
    columns: np.ndarray  # (C, 2) int32, where each component of an observation begins and ends


def empty_maps(spec: SwarmSpec, num_envs: int) -> Maps:
    """Zeros."""
    layout = vars(state_shapes(spec).layout)
    return Maps(**{name: np.zeros((num_envs, *leaf.shape), leaf.dtype) for name, leaf in layout.items()})


def empty_swarms(spec: SwarmSpec, num_envs: int, num_threads: int, num_cells: int) -> Swarms:
    """Zeros, and the directions of the rays."""
    lanes, fixed = (num_envs, spec.num_agents), 4 + spec.num_walls + spec.num_boxes + spec.num_discs
    num_terms = len(BUILT_IN) + len(spec.reward_terms)
    angle = 2 * np.pi * np.arange(spec.num_rays) / spec.num_rays
    columns = [(spec.slice(name).start, spec.slice(name).stop) for name in OBSERVATION]
    return Swarms(
        agents=np.zeros(lanes, AGENT),
        motions=np.zeros(lanes, MOTION),
        worlds=np.zeros(num_envs, WORLD),
        maps=empty_maps(spec, num_envs),
        obs=np.zeros((*lanes, spec.obs_dim), np.float32),
        final_obs=np.zeros((*lanes, spec.obs_dim), np.float32),
        weights=np.zeros((num_envs, num_terms), np.float32),
        reward_terms=np.zeros((*lanes, num_terms if spec.reward_terms else 0), np.float32),
        near_fixed=np.zeros((*lanes, fixed), np.int32),
        contacts=np.zeros((num_threads, spec.num_agents + fixed, 5), np.float32),
        cell_end=np.zeros((num_envs, num_cells), np.int32),
        sorted_agent=np.zeros(lanes, np.int32),
        sorted_x=np.zeros(lanes, np.float32),
        sorted_y=np.zeros(lanes, np.float32),
        first_ray=np.zeros((num_threads, spec.num_agents), np.int32),
        ray_count=np.zeros((num_threads, spec.num_agents), np.int32),
        rays=np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32),
        columns=np.array(columns, np.int32),
    )


def pack_params(params: SwarmParams, num_envs: int) -> np.ndarray:
    """(E,) PARAMS, from scalars or one value a world."""
    packed = np.empty(num_envs, PARAMS)
    for name in PARAMS.names or ():
        packed[name] = getattr(params, name)
    return packed


def pack_weights(weights: np.ndarray, params: SwarmParams, terms: Iterable[str]) -> None:
    """Write the weights of reward terms into (E, terms), from scalars or one value a world."""
    for column, name in enumerate(terms):
        weights[:, column] = params.weight(name)


def map_bytes(maps: Maps) -> list[np.ndarray]:
    """(E, ...) uint8 views of all that a map consists of."""
    return [array.reshape(len(array), -1).view(np.uint8) for array in maps if array.size]


def write_maps(maps: Maps, layout: Layout, where: Any = slice(None)) -> None:
    """Copy a Layout of as many worlds into the worlds at `where`."""
    for name in Maps._fields:
        getattr(maps, name)[where] = getattr(layout, name)


def write_state(swarms: Swarms, state: SwarmState) -> None:
    """Copy a SwarmState of E worlds, which has been checked: the kernels look its goals up without asking."""
    write_maps(swarms.maps, state.layout)
    for name in AGENT_FIELDS:
        swarms.agents[name] = getattr(state, name)
    for name in MOTION_FIELDS:
        swarms.motions[name] = getattr(state, name)
    for name in WORLD_FIELDS:
        swarms.worlds[name] = getattr(state, name)


def read_state(swarms: Swarms) -> SwarmState:
    """A copy as SwarmState with NumPy leaves, of E worlds."""
    fields: dict[str, Any] = {name: swarms.agents[name].copy() for name in AGENT_FIELDS}
    fields |= {name: swarms.motions[name].copy() for name in MOTION_FIELDS}
    fields |= {name: swarms.worlds[name].copy() for name in WORLD_FIELDS}
    return SwarmState(layout=Layout(**{name: array.copy() for name, array in swarms.maps._asdict().items()}), **fields)
