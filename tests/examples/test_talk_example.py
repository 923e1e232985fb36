"""Scripted robots solve `relay` and `lookout` by words alone."""

import runpy

import pytest
from helpers.commands import ROOT

from entropy_env import Swarm, SwarmSpec


@pytest.fixture(scope="module")
def talk():
    """What is in the example, by name."""
    return runpy.run_path(str(ROOT / "examples" / "talk.py"))


@pytest.mark.parametrize(("scenario", "least", "most"), [("relay", 0.0, 0.02), ("lookout", 0.25, 0.75)])
def test_robots_arrive_by_words_and_without_them_by_chance(scenario, least, most, talk):
    env = Swarm(SwarmSpec(num_agents=4), scenario)
    assert talk["success"](env, 32) >= 0.98
    assert least <= talk["success"](env, 32, words=False) <= most


def test_the_example_says_who_arrives_and_films_a_world(talk, tmp_path, capsys):
    out = tmp_path / "talk.gif"
    talk["main"](scenario="lookout", num_worlds=1, out=out)
    assert "lookout: 1.000 of the robots arrive with words, " in capsys.readouterr().out
    assert out.read_bytes().startswith(b"GIF89a")
