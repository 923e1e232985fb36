"""Practice corridors: easier at first, and at last the corridor of the benchmark."""

import jax
import numpy as np
import pytest

from benchmarks.practice import Traffic, Widths
from entropy_env import Swarm, SwarmSpec
from entropy_env.scenarios.corridor import ROOM, Corridor


def draw(scenario, difficulty):
    env = Swarm(SwarmSpec(num_agents=10), scenario)
    return jax.jit(env.generate)(jax.random.key(3), env.make_params(difficulty=difficulty))


@pytest.mark.parametrize("practice", [Widths, Traffic])
def test_the_last_level_is_the_corridor_itself(practice):
    last, real = draw(practice(4), 4), draw(Corridor(1), 1)
    for name in ("size", "boxes", "spawns", "goals"):
        np.testing.assert_array_equal(getattr(last, name), getattr(real, name), err_msg=name)


@pytest.mark.parametrize(("difficulty", "width"), [(1, 1.2), (2, 0.8), (3, 0.55), (4, 0.36)])
def test_corridors_get_narrower(difficulty, width):
    (_, y_low, _, half_low), (_, y_high, _, half_high) = np.asarray(draw(Widths(4), difficulty).boxes)
    assert (y_high - half_high) - (y_low + half_low) == pytest.approx(width, abs=1e-5)


@pytest.mark.parametrize(("difficulty", "crossing"), [(1, 2), (2, 4), (3, 6), (4, 10)])
def test_more_and_more_robots_change_sides(difficulty, crossing):
    layout = draw(Traffic(4), difficulty)
    left = np.stack([layout.spawns[:, 0, 0], layout.goals[:, 0, 0]]) < ROOM[0]
    assert np.sum(left[0] != left[1]) == crossing
