"""Make the Gymnasium spaces of a specification."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box

from entropy_env.observations import GLOBAL_STATE, OBSERVATION
from entropy_env.types import Component, SwarmSpec


def observation_space(spec: SwarmSpec) -> Box:
    """Return the space of one agent's observations, (obs_dim,), with the bounds of each component."""
    return Box(*_bounds(OBSERVATION, spec), dtype=np.float32)


def action_space(spec: SwarmSpec) -> Box:
    """Return the space of one agent's actions, (action_dim,) in [-1, 1]: left and right motor, and what it says.

    The latter, 32 token scores and a payload of 4, only where robots talk: see `comms`.
    """
    return Box(-1.0, 1.0, (spec.action_dim,), np.float32)


def state_space(spec: SwarmSpec) -> Box:
    """Return the space of `Swarm.global_state`, (num_agents * state_dim,), with the bounds of each component."""
    low, high = (np.tile(bound, spec.num_agents) for bound in _bounds(GLOBAL_STATE, spec))
    return Box(low, high, dtype=np.float32)


def _bounds(table: dict[str, Component], spec: SwarmSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest number of every column."""
    widths = [component.width_in(spec) for component in table.values()]
    low, high = ([getattr(component, end) for component in table.values()] for end in ("low", "high"))
    return np.repeat(low, widths).astype(np.float32), np.repeat(high, widths).astype(np.float32)
