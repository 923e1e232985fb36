"""Gymnasium spaces of a specification."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box

from entropy_env.types import SwarmSpec


def observation_space(spec: SwarmSpec) -> Box:
    """Of one agent, (obs_dim,): lidar in [0, 1], then velocity (2) and goal (2), unbounded."""
    low = np.full(spec.obs_dim, -np.inf, np.float32)
    high = np.full(spec.obs_dim, np.inf, np.float32)
    low[: spec.num_rays], high[: spec.num_rays] = 0.0, 1.0
    return Box(low, high, dtype=np.float32)


def action_space(spec: SwarmSpec) -> Box:
    """Of one agent, (action_dim,) in [-1, 1]: left and right motor."""
    return Box(-1.0, 1.0, (spec.action_dim,), np.float32)


def state_space(spec: SwarmSpec) -> Box:
    """Of `Swarm.global_state`: `spec.state_dim` numbers for each agent, unbounded."""
    return Box(-np.inf, np.inf, (spec.num_agents * spec.state_dim,), np.float32)
