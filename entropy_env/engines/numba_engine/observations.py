"""`entropy_env.observations` in compiled loops: a function of the same name for every component.

Each writes its own columns. Their place follows from the table there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from entropy_env.engines.numba_engine.comms import inbox
from entropy_env.engines.numba_engine.compilation import spliced
from entropy_env.engines.numba_engine.geometry import ONE, TWO, ZERO, cos_sin
from entropy_env.engines.numba_engine.lidar import scan
from entropy_env.observations import BUILT_IN, GLOBAL_STATE, OBSERVATION
from entropy_env.types import SwarmSpec


@spliced
def lidar(w, p, choices, row, cos, sin, slot, e, i):
    """Write range readings into row (num_rays,)."""
    scan(w, p, row, cos, sin, slot, e, i)


@spliced
def velocity(w, p, choices, row, cos, sin, slot, e, i):
    """Write speed and turn rate over their maxima into row (2,), or the velocity in the world's frame."""
    me = w.agents[e, i]
    if choices.force:
        motion = w.motions[e, i]
        vx, vy, turn_rate = motion.velocity[0], motion.velocity[1], motion.angular_velocity
        speed = vx * cos + vy * sin
    else:
        left, right = me.wheel_speed[0], me.wheel_speed[1]
        speed, turn_rate = (left + right) / TWO, (right - left) / p.wheel_base
        vx, vy = speed * cos, speed * sin
    if choices.world_frame:
        row[0], row[1] = vx, vy
    else:
        max_turn_rate = TWO * p.max_wheel_speed / p.wheel_base
        row[0], row[1] = speed / p.max_wheel_speed, turn_rate / max_turn_rate


@spliced
def goal(w, p, choices, row, cos, sin, slot, e, i):
    """Write the offset to the goal, or to the partner's, in the robot's frame, into row (2,)."""
    mate = i ^ choices.partner
    place = w.maps.goals[e, mate, w.agents[e, mate].goal_index]
    row[0], row[1] = in_own_frame(w.agents[e, i], place, p, cos, sin)
    if i < choices.scouts:
        row[0], row[1] = ZERO, ZERO


@spliced
def in_own_frame(me, place, p, cos, sin):
    """Offset to a place (2,) m over `goal_scale`, in the robot's frame."""
    dx, dy = (place[0] - me.position[0]) / p.goal_scale, (place[1] - me.position[1]) / p.goal_scale
    return dx * cos + dy * sin, dy * cos - dx * sin


@spliced
def partner(w, p, choices, row, cos, sin, slot, e, i):
    """Write the offset to the partner, in the robot's frame, into row (2,), where there are partners."""
    if choices.partner:
        row[0], row[1] = in_own_frame(w.agents[e, i], w.agents[e, i ^ choices.partner].position, p, cos, sin)


@spliced
def role(w, p, choices, row, cos, sin, slot, e, i):
    """Write 1 for a scout and 0 for a carrier into row (1,), where there are roles."""
    for k in range(len(row)):
        row[k] = ONE if i < choices.scouts else ZERO


READERS: dict[str, Callable] = {"lidar": lidar, "velocity": velocity, "goal": goal}  # what every robot senses
SOCIAL_READERS: dict[str, Callable] = {"inbox": inbox, "partner": partner, "role": role}  # see `arrays.is_social`


def observing(readers: dict[str, Callable]) -> Any:
    """Return a compiled function that writes the columns of these components into the observation of an agent.

    It takes (w, p, choices, row, slot, e, i), a row (obs_dim,) of agent i of world e.
    """
    fill = _in_turn([(k, readers[name]) for k, name in enumerate(OBSERVATION) if name in readers])

    @spliced
    def observe(w, p, choices, row, slot, e, i):
        cos, sin = cos_sin(w.agents[e, i].heading)
        fill(w, p, choices, row, cos, sin, slot, e, i)

    return observe


def _in_turn(readers: list[tuple[int, Callable]]) -> Any:
    """Return a compiled function that calls readers, each with its columns of a row: it is the k-th component."""
    (k, read), rest = readers[0], _in_turn(readers[1:]) if len(readers) > 1 else None

    @spliced
    def fill(w, p, choices, row, cos, sin, slot, e, i):
        first, stop = choices.columns[k]
        read(w, p, choices, row[first:stop], cos, sin, slot, e, i)
        if rest is not None:
            rest(w, p, choices, row, cos, sin, slot, e, i)

    return fill


sense, relate = observing(READERS), observing(SOCIAL_READERS)


def _motion(w: Any, spec: SwarmSpec) -> np.ndarray:
    if spec.drive == "force":
        return np.concatenate([w.motions["velocity"], w.motions["angular_velocity"][..., None]], axis=-1)
    left, right = np.moveaxis(w.agents["wheel_speed"], -1, 0)
    return np.stack([(left + right) / 2, right - left], axis=-1)


def _goal(w: Any, spec: SwarmSpec) -> np.ndarray:
    return np.take_along_axis(w.maps.goals, w.agents["goal_index"][..., None, None], axis=2)[:, :, 0]


def _direction(w: Any, spec: SwarmSpec) -> np.ndarray:
    return np.stack([np.cos(w.agents["heading"]), np.sin(w.agents["heading"])], axis=-1)


STATE_READERS: dict[str, Callable[[Any, SwarmSpec], np.ndarray]] = {  # (E, N, width)
    "position": lambda w, spec: w.agents["position"],
    "direction": _direction,
    "velocity": _motion,
    "goal": _goal,
}


def global_state(w: Any, spec: SwarmSpec) -> np.ndarray:
    """Return the global states (E, N * state_dim), see `Swarm.global_state`."""
    table = np.empty((*w.agents.shape, spec.state_dim), np.float32)
    for name, read in STATE_READERS.items():
        table[..., spec.state_slice(name)] = read(w, spec)
    table[~w.agents["active"]] = 0
    return table.reshape(len(table), -1)


def check_components() -> None:
    """Raise ValueError if a component is known to one engine only, or if its table has changed."""
    tables = ("observation", OBSERVATION, READERS | SOCIAL_READERS), ("global state", GLOBAL_STATE, STATE_READERS)
    for (what, theirs, ours), built_in in zip(tables, BUILT_IN, strict=True):
        for name in sorted(theirs.keys() ^ ours.keys()):
            engines = ("JAX", "Numba") if name in theirs else ("Numba", "JAX")
            raise ValueError(
                f"component {name!r} of the {what} is known to the {engines[0]} engine, but not to the {engines[1]} "
                "engine: give both observations.py a function of that name, or choose engine='jax'"
            )
        if tuple(theirs.items()) != built_in:
            raise ValueError(
                f"the components of the {what} are others than those that the Numba engine compiles: edit both "
                "observations.py instead of the table, or choose engine='jax'"
            )
