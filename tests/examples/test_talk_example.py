"""Scripted robots solve `relay` and `lookout` by words alone."""

import imageio.v3 as iio
import numpy as np
import pytest
from test_examples import load

from entropy_env import Swarm, SwarmSpec


@pytest.mark.parametrize(("scenario", "chance"), [("relay", 0.0), ("lookout", 0.5)])
def test_robots_that_talk_arrive_and_those_that_do_not_hear_arrive_by_chance(scenario, chance, monkeypatch, tmp_path, capsys):
    talk, out = load("talk"), tmp_path / "talk.gif"
    talk.main(scenario=scenario, num_worlds=32)
    print(capsys.readouterr().out)


def test_a_film_is_written(tmp_path, capsys):
    pass
