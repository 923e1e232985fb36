"""Train in corridors that are easier at first: wider, or with fewer robots that change sides.

    python -m benchmarks.practice --curriculum benchmarks/traffic.yaml --total-steps 10000000

Takes the options of `trainers.jax_ppo`, and adds two scenarios to them. Their last difficulty is that of `corridor` 1.
Other programs do not know them: evaluate with `python -m trainers.evaluate RUN --scenario corridor --difficulty 1`.
"""

from __future__ import annotations

from entropy_env.scenarios import SCENARIOS
from entropy_env.scenarios.corridor import WIDTH, Corridor
from trainers.jax_ppo import main


class Widths(Corridor):
    """The corridor is 12, 8, 5.5 and at last 3.6 agent radii wide."""

    name = "widths"
    max_steps = (400,) * 4
    lengths = (1.0,) * 4
    offsets = (0.0,) * 4
    widths = (12.0, 8.0, 5.5, WIDTH)


class Traffic(Corridor):
    """2 of 10 robots change sides, then 4, then 6 or 7, at last all. The others have goals in the room where they are."""

    name = "traffic"
    max_steps = (400,) * 4
    lengths = (1.0,) * 4
    offsets = (0.0,) * 4
    trips = (*Corridor.trips, *(((0, 0), (1, 1)) * 4))
    num_trips = (10, 5, 3, 2)


SCENARIOS |= {each.name: each for each in (Widths, Traffic)}

if __name__ == "__main__":
    main()
