"""What scenarios have in common that only robots who talk can solve."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from entropy_env.types import SwarmSpec
from entropy_env.vocabulary import Word

NEIGHBOURS = 8  # speakers that robots hear


def shared(spec: SwarmSpec) -> dict[str, tuple[Any, Any, Any, Any]]:
    """Return the default weights of scenarios in which teams win or lose together, and words cost nothing."""
    weights = {"reward_team": (spec.team_rewards, 1.0), "reward_bandwidth": (spec.talks, 0.0)}
    return {name: (weight, weight, weight, weight) for name, (there, weight) in weights.items() if there}


def found(speaks: jax.Array, who: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return tokens (N,) int32 and payloads (N, 4): FOUND_TARGET by those of `speaks` (N,) bool, silence by the others.

    who, where: (N, 2), offsets in the speaker's frame over `goal_scale`, to the robot that is meant and to the place.
    """
    payload = jnp.clip(jnp.concatenate([who, where], axis=-1), -1.0, 1.0)
    return jnp.where(speaks, int(Word.FOUND_TARGET), 0).astype(jnp.int32), jnp.where(speaks[:, None], payload, 0.0)


def check_even(scenario: str, spec: SwarmSpec) -> None:
    """Raise ValueError for an odd number of robots."""
    if spec.num_agents % 2:
        raise ValueError(f"num_agents={spec.num_agents} must be even in scenario {scenario!r}")
