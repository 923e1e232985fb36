"""Robots in pairs, each of which sees its partner's goal instead of its own."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.geometry import in_own_frame
from entropy_env.scenarios.roaming import Roaming
from entropy_env.types import Layout, SwarmParams, SwarmSpec, SwarmState
from entropy_env.vocabulary import Word

NEIGHBOURS = 8  # speakers that robots hear in the scenarios of talk


class Relay(Roaming):
    """Robots 0 and 1, 2 and 3, ... are pairs. Each observes its partner's goal, so it must tell it, and be told its own.

    The arena is open, 8 x 6 m. A pair arrives together: `reached` is true only in a step in which both are at their goals.
    Difficulty 1 to 4: words are heard up to 10, 8, 5 and 4 m away, and there are 200, 200, 300 and 400 steps.
    """

    name = "relay"
    max_steps = (200, 200, 300, 400)
    sizes = ((8.0, 6.0),) * 4
    comm_neighbours: ClassVar[int] = NEIGHBOURS
    team_rewards: ClassVar[bool] = True
    components: ClassVar[tuple[str, ...]] = ("partner",)
    tells: ClassVar[bool] = True
    comm_ranges: ClassVar[tuple[float, float, float, float]] = (10.0, 8.0, 5.0, 4.0)  # m

    def defaults(self, spec: SwarmSpec) -> dict[str, tuple[Any, Any, Any, Any]]:
        return super().defaults(spec) | shared(spec) | {"comm_range": self.comm_ranges}

    def check(self, spec: SwarmSpec) -> None:
        super().check(spec)
        check_even(self.name, spec)

    def generate(self, key: jax.Array, spec: SwarmSpec, params: SwarmParams) -> Layout:
        layout = super().generate(key, spec, params)
        if not spec.teams:
            return layout
        return layout.replace(team=jnp.arange(spec.num_agents, dtype=jnp.int32) // 2)

    def truth(self, state: SwarmState, params: SwarmParams, spec: SwarmSpec) -> tuple[jax.Array, jax.Array]:
        """All tell where their partner is and where its goal is, which both are observed. See `Scenario.truth`."""
        partner = np.arange(spec.num_agents) ^ 1
        places = ((place[partner] - state.position) / params.goal_scale for place in (state.position, state.goal))
        return found(state.active, *(in_own_frame(offset, state.heading) for offset in places))


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
