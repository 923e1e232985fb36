"""What a simulator's specification and parameters are, where a user leaves the choice to the scenario."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env import checks
from entropy_env.physics import PARTING_SPEED, clearance
from entropy_env.rewards import NamedTerms, check_term, check_weights, preset_weights
from entropy_env.scenarios import Scenario
from entropy_env.scenarios.base import corners_for
from entropy_env.types import PARAM_NAMES, SwarmParams, SwarmSpec, cast_params

GEODESIC_WEIGHT, BANDWIDTH_WEIGHT = "reward_geodesic", "reward_bandwidth"
BANDWIDTH = 0.01  # what a word costs where robots talk, unless the scenario says otherwise
RESPAWN_GOALS = 8  # poses and goals per agent where an episode may use several
NO_CORNERS = {"num_corners": 0, "disc_corners": 8}  # for shortest ways, where there are none
SIZE_PARAMS = frozenset({"agent_radius", "wall_half_thickness"})  # decide how many agents fit
SWITCHED = {  # parameters that a field of SwarmSpec must allow, if they are above 0
    GEODESIC_WEIGHT: "geodesic",
    "reward_team": "team_rewards",
}


def fill_spec(spec: SwarmSpec, family: Scenario) -> SwarmSpec:
    """Return the specification with what the scenario chooses instead of every None.

    Raises ValueError for fewer slots than the scenario needs, for a component of the observation that it has not, for a
    reward term that JAX cannot compile, and for what the scenario refuses.
    """
    _check_terms(spec.reward_terms)
    sizes = {"num_walls": 0, "num_boxes": 0, "num_discs": 0} | family.slots()
    sizes["num_goals"] = 1 if spec.on_goal == "terminate" else RESPAWN_GOALS
    for name, needed in sizes.items():
        given = getattr(spec, name)
        if given is not None and given < needed and name != "num_goals":
            raise ValueError(f"{name}={given} is too few: {family.name} layouts need {needed}")
    filled: dict[str, Any] = {name: needed for name, needed in sizes.items() if getattr(spec, name) is None}
    slots = {name: filled.get(name, getattr(spec, name)) for name in sizes}
    corners = NO_CORNERS
    if spec.geodesic:
        needed_corners = corners_for(slots, family.largest_disc, family.corners_per_wall)
        corners = {name: max(getattr(spec, name) or 0, count) for name, count in needed_corners.items()}
    for name in ("comm_neighbours", "team_rewards"):
        if getattr(spec, name) is None:
            filled[name] = getattr(family, name)
    if spec.components not in (None, family.components):
        theirs = ", ".join(family.components) or "none"
        raise ValueError(f"components={spec.components!r}: scenario {family.name!r} has {theirs}, leave it out")
    filled |= {"geodesic": bool(spec.geodesic), "components": family.components, **corners}
    spec = dataclasses.replace(spec, **filled)
    family.check(spec)
    return spec


def resolve_params(spec: SwarmSpec, scenario: Scenario, reward: str, values: dict[str, Any]) -> SwarmParams:
    """See `Swarm.resolve_params`. spec: without None."""
    extra = (*SWITCHED, BANDWIDTH_WEIGHT, *(f"reward_{name}" for name, _ in spec.reward_terms))
    names = [*PARAM_NAMES, *(name for name in extra if name not in PARAM_NAMES)]
    for name in values:
        if name not in names:
            raise ValueError(f"unknown parameter {name!r}{checks.suggest(name, names)}")
    values = {"difficulty": scenario.difficulty} | preset_weights(reward) | values
    if isinstance(values.get("max_steps"), str):
        values["max_steps"] = checks.as_time_limit(values["max_steps"])
    concrete = {name: value for name, value in values.items() if not isinstance(value, jax.core.Tracer)}
    checks.check_params(concrete)
    if "difficulty" in concrete and np.any(np.asarray(concrete["difficulty"]) > scenario.difficulty):
        raise ValueError(
            f"difficulty={concrete['difficulty']} is above the difficulty={scenario.difficulty} that this "
            f"Swarm's layouts have room for: make it with Swarm(..., difficulty={np.max(concrete['difficulty'])})"
        )
    level = concrete.get("difficulty")
    for name, rows in scenario.defaults(spec).items():
        if name not in values:
            table = np.array(rows, np.int32 if isinstance(rows[0], int) else np.float32)
            if level is not None:
                values[name] = table[np.asarray(level, np.int32) - 1]
            else:
                values[name] = jnp.asarray(table)[jnp.asarray(values["difficulty"], jnp.int32) - 1]
    for name, field in SWITCHED.items():
        if getattr(spec, field):
            values.setdefault(name, 0.0)
        elif name in values:
            _check_no_weight(name, field, values.pop(name))
    if spec.talks:
        values.setdefault(BANDWIDTH_WEIGHT, BANDWIDTH)
    elif BANDWIDTH_WEIGHT in values:
        _check_no_weight(BANDWIDTH_WEIGHT, "comm_neighbours", values.pop(BANDWIDTH_WEIGHT))
    own = {name: values.pop(f"reward_{name}") for name, _ in spec.own_terms if f"reward_{name}" in values}
    params = SwarmParams(**values, own_weights=own)
    check_together(spec, params)
    if "difficulty" in concrete:
        sizes: dict[str, Any] = {name: float(np.max(concrete[name])) for name in SIZE_PARAMS & concrete.keys()}
        for each in np.unique(np.asarray(concrete["difficulty"])):
            check_capacity(spec, scenario, int(each), SwarmParams(**sizes))
    return params


def check_together(spec: SwarmSpec, params: SwarmParams) -> None:
    """See `Swarm.check_together`."""
    check_weights(spec.own_terms, params.own_weights)
    values, substeps = vars(params), spec.substeps
    if any(isinstance(value, jax.core.Tracer) for value in values.values()):
        return
    if np.any(np.asarray(params.comm_delay) > spec.comm_history) and spec.talks:
        raise ValueError(
            f"comm_delay={params.comm_delay!r} is beyond comm_history={spec.comm_history}, a field of SwarmSpec: the words "
            "of so many steps are kept"
        )
    if not spec.team_rewards and np.any(np.asarray(params.reward_team) != 0):
        _check_no_weight("reward_team", "team_rewards", params.reward_team)
    speed = checks.top_speed(values, spec.drive, substeps)
    longest = np.maximum(speed, PARTING_SPEED) * np.asarray(params.dt) / substeps
    thickness = np.asarray(params.agent_radius) + np.asarray(params.wall_half_thickness)
    least = clearance(checks.ARENA.most, longest, np.asarray(params.agent_radius))
    if np.any(thickness < least):
        raise ValueError(
            f"agent_radius={params.agent_radius!r} plus wall_half_thickness={params.wall_half_thickness!r} is "
            f"{np.min(thickness):.3g} m and must be at least {np.max(least):.3g} m, because a robot may move "
            f"{np.max(longest):.3g} m in a substep; or use a smaller dt, or more substeps"
        )


def check_capacity(spec: SwarmSpec, scenario: Scenario, level: int, params: SwarmParams) -> None:
    """Raise ValueError if more agents are asked for than are sure to fit at a level."""
    capacity = scenario.capacity(level, params)
    if spec.num_agents > capacity:
        raise ValueError(
            f"num_agents={spec.num_agents} is more than scenario {scenario.name!r} holds at "
            f"difficulty {level}: at most {capacity} fit{scenario.more_room if capacity else ''}"
        )


def _check_no_weight(name: str, field: str, weight: Any) -> None:
    """Raise ValueError for a weight that a field of SwarmSpec does not allow here. A weight of 0 is fine."""
    if isinstance(weight, jax.core.Tracer) or np.any(np.asarray(weight) != 0):
        needed, here = (" above 0", 0) if field == "comm_neighbours" else ("=True", False)
        raise ValueError(f"{name}={weight!r} needs {field}{needed}, a field of SwarmSpec, and it is {here} here")


@functools.lru_cache(maxsize=64)
def _check_terms(terms: NamedTerms) -> None:
    """Raise ValueError if JAX cannot compile one of a user's own reward terms."""
    weights: dict[str, Any] = {name: 0.0 for name, _ in terms}
    params = jax.eval_shape(cast_params, SwarmParams(own_weights=weights)) if terms else None
    for name, term in terms:
        check_term(name, term, params)
