"""Robots in pairs, each of which sees its partner's goal instead of its own."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from entropy_env.geometry import in_own_frame, partners
from entropy_env.scenarios.roaming import Roaming
from entropy_env.scenarios.talk import NEIGHBOURS, check_even, found, shared
from entropy_env.types import Layout, SwarmParams, SwarmSpec, SwarmState


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
        places = ((partners(place) - state.position) / params.goal_scale for place in (state.position, state.goal))
        return found(state.active, *(in_own_frame(offset, state.heading) for offset in places))
