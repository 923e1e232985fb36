"""Named reward terms; the reward is their sum, each weighted by the `SwarmParams` field `reward_<name>`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from entropy_env.types import SwarmParams


class Outcome(struct.PyTreeNode):
    """What one step did to every agent, towards the goal it had when the step began."""

    distance_before: jax.Array  # (N,) m to the goal
    distance: jax.Array  # (N,) m to the goal
    reached: jax.Array  # (N,) bool
    collision: jax.Array  # (N,) bool


TERMS: dict[str, Callable[[Outcome], jax.Array]] = {
    "distance": lambda outcome: -outcome.distance / 10,
    "progress": lambda outcome: outcome.distance_before - outcome.distance,
    "reached": lambda outcome: outcome.reached.astype(jnp.float32),
    "collision": lambda outcome: -outcome.collision.astype(jnp.float32),
    "time": lambda outcome: -jnp.ones_like(outcome.distance),
}

PRESETS: dict[str, dict[str, float]] = {
    "shaped": {name: getattr(SwarmParams, f"reward_{name}") for name in TERMS},
    "seed": {"distance": 1.0, "progress": 0.0, "reached": 10.0, "collision": 0.0, "time": 0.0},
}


def weighted_terms(outcome: Outcome, params: SwarmParams) -> dict[str, jax.Array]:
    """(N,) each: what every term adds to the reward."""
    return {name: getattr(params, f"reward_{name}") * term(outcome) for name, term in TERMS.items()}
