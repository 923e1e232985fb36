"""Train in corridors that are easier at first: wider, or with fewer robots that change sides.

    python -m benchmarks.practice --curriculum benchmarks/traffic.yaml --total-steps 10000000

Takes the options of `trainers.jax_ppo`, and adds two scenarios to them. Their last difficulty is that of `corridor` 1.
Other programs do not know them: evaluate with `python -m trainers.evaluate RUN --scenario corridor --difficulty 1`.
"""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp

from entropy_env.scenarios import SCENARIOS
from entropy_env.scenarios.corridor import WIDTH, Corridor
from entropy_env.types import Layout, SwarmParams, SwarmSpec
from trainers import jax_ppo


class Practice(Corridor):
    """Corridors of the length and in the place of difficulty 1."""

    max_steps = (Corridor.max_steps[0],) * 4
    lengths = Corridor.lengths[:1] * 4
    offsets = Corridor.offsets[:1] * 4


class Widths(Practice):
    """The corridor is 12, 8, 5.5 and at last 3.6 agent radii wide."""

    name = "widths"
    widths = (12.0, 8.0, 5.5, WIDTH)


class Traffic(Practice):
    """2 robots change sides, then 4, then 6, at last all. The others have goals in the room where they start."""

    name = "traffic"
    crossing = (2, 4, 6, 2**30)

    def generate(self, key: jax.Array, spec: SwarmSpec, params: SwarmParams) -> Layout:
        layout = super().generate(key, spec, params)
        agent = jnp.arange(spec.num_agents, dtype=jnp.int32)
        neighbour = jnp.minimum(agent ^ 1, spec.num_agents - 1)  # starts in the other room
        stays = agent >= self.row(self.crossing, params)
        return layout.replace(goals=jnp.where(stays[:, None, None], layout.goals[neighbour], layout.goals))


def main() -> int:
    """Run the command line with both scenarios, and forget them. Returns the exit status."""
    added = {each.name: each for each in (Widths, Traffic)}
    SCENARIOS.update(added)
    try:
        return jax_ppo.main()
    finally:
        for name in added:
            del SCENARIOS[name]


if __name__ == "__main__":
    sys.exit(main())
