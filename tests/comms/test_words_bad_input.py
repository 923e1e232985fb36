import re

import jax
import numpy as np
import pytest

from entropy_env import Swarm, SwarmSpec, vector
from entropy_env.types import replace_params

WHOLE = "must be a whole number from 0 to 1000"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"comm_neighbours": -1}, f"comm_neighbours=-1 {WHOLE}"),
        ({"comm_neighbours": 1001}, f"comm_neighbours=1001 {WHOLE}"),
        ({"comm_neighbours": 2.0}, f"comm_neighbours=2.0 {WHOLE}"),
        ({"comm_neighbours": True}, f"comm_neighbours=True {WHOLE}"),
        ({"comm_neighbours": "8"}, f"comm_neighbours='8' {WHOLE}"),
        ({"comm_history": -1}, f"comm_history=-1 {WHOLE}"),
        ({"comm_history": None}, f"comm_history=None {WHOLE}"),
        ({"comm_channel": "radio"}, "comm_channel='radio' must be one of broadcast, targeted, team"),
        ({"comm_channel": None}, "comm_channel=None must be one of broadcast, targeted, team"),
        ({"team_rewards": "yes"}, "team_rewards='yes' must be True, False or None"),
    ],
)
def test_a_specification_of_words_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SwarmSpec(4, **fields)


@pytest.mark.parametrize(
    ("scenario", "components", "theirs"),
    [
        ("open", ("partner",), "none"),
        ("open", "radar", "none"),
        ("relay", ("partner", "radar"), "partner"),
        ("relay", (), "partner"),
    ],
)
def test_components_other_than_the_scenarios_own_are_refused(scenario, components, theirs):
    given = re.escape(repr((components,) if isinstance(components, str) else components))
    with pytest.raises(ValueError, match=f"components={given}: scenario '{scenario}' has {theirs}, leave it out"):
        Swarm(SwarmSpec(4, components=components), scenario)


def test_components_follow_the_scenario_and_may_be_given_again():
    spec = Swarm(SwarmSpec(4), "relay").spec
    assert spec.components == ("partner",)
    assert Swarm(spec, "relay").spec == spec
    with pytest.raises(ValueError, match="no component 'partnr'; did you mean 'partner'"):
        spec.slice("partnr")


@pytest.mark.parametrize("scenario", ["relay", "lookout"])
@pytest.mark.parametrize("num_agents", [1, 3, 7])
def test_an_odd_number_of_robots_is_refused_where_they_come_in_pairs(scenario, num_agents):
    with pytest.raises(ValueError, match=f"num_agents={num_agents} must be even in scenario '{scenario}'"):
        Swarm(SwarmSpec(num_agents), scenario)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"comm_delay": 3}, "comm_delay=3 is beyond comm_history=2, a field of SwarmSpec"),
        ({"comm_delay": np.array([0, 3])}, "comm_delay=array([0, 3]) is beyond comm_history=2"),
        ({"comm_delay": -1}, "comm_delay=-1 must be a whole number from 0 to 1000"),
        ({"comm_delay": 0.5}, "comm_delay=0.5 must be a whole number"),
        ({"comm_drop": 1.1}, "comm_drop=1.1 must be from 0 to 1"),
        ({"comm_drop": -0.1}, "comm_drop=-0.1 must be from 0 to 1"),
        ({"comm_drop": np.array([0.5, np.nan])}, "comm_drop[1]=nan must be from 0 to 1"),
        ({"comm_noise": -1.0}, "comm_noise=-1.0 must be from 0 to 1000"),
        ({"comm_range": 0.0}, "comm_range=0.0 must be from 0.001 to 10000 m"),
        ({"comm_rate": -1.0}, "comm_rate=-1.0 must be from 0 to 1e+06 words/s"),
        ({"reward_bandwidth": -0.01}, "reward_bandwidth=-0.01 must be from 0 to 1e+06"),
        ({"reward_team": 1.5}, "reward_team=1.5 must be from 0 to 1"),
        ({"reward_team": -0.5}, "reward_team=-0.5 must be from 0 to 1"),
        ({"reward_team": 0.5}, "reward_team=0.5 needs team_rewards=True, a field of SwarmSpec, and it is False here"),
        ({"comm_rang": 2.0}, "unknown parameter 'comm_rang'; did you mean 'comm_range'?"),
    ],
)
def test_parameters_of_words_that_cannot_be_are_refused(values, message):
    env = Swarm(SwarmSpec(4, comm_neighbours=2, comm_history=2))
    with pytest.raises(ValueError, match=re.escape(message)):
        env.make_params(**values)


def test_a_delay_within_the_history_is_taken_and_where_nobody_talks_it_does_not_matter():
    assert int(Swarm(SwarmSpec(4, comm_neighbours=2, comm_history=2)).make_params(comm_delay=2).comm_delay) == 2
    assert int(Swarm(SwarmSpec(4)).make_params(comm_delay=2).comm_delay) == 2


def test_parameters_that_were_changed_later_are_checked_together():
    env = Swarm(SwarmSpec(4, comm_neighbours=2))
    with pytest.raises(ValueError, match="comm_delay=1 is beyond comm_history=0"):
        env.check_together(replace_params(env.resolve_params(), comm_delay=1))
    with pytest.raises(ValueError, match=r"reward_team=0\.5 needs team_rewards=True"):
        env.check_together(replace_params(env.resolve_params(), reward_team=0.5))


def test_no_weight_for_teams_or_words_is_no_error_and_a_price_is_one_where_nobody_talks():
    env = Swarm(SwarmSpec(4))
    assert env.make_params(reward_team=0.0, reward_bandwidth=0.0).own_weights == {}
    with pytest.raises(ValueError, match=r"reward_bandwidth=0\.5 needs comm_neighbours above 0"):
        env.make_params(reward_bandwidth=0.5)
    assert float(Swarm(SwarmSpec(4, team_rewards=True)).make_params(reward_team=0.5).reward_team) == 0.5


def test_an_action_without_words_is_refused_where_robots_talk():
    env = Swarm(SwarmSpec(3, comm_neighbours=2))
    params = env.make_params()
    state = jax.eval_shape(env.reset, jax.random.key(0), params)[1]
    with pytest.raises(ValueError, match=re.escape("action has shape (3, 2), expected (3, 38)")):
        jax.eval_shape(env.step, jax.random.key(0), state, jax.ShapeDtypeStruct((3, 2), np.float32), params)
    with pytest.raises(ValueError, match=re.escape("action has shape (3, 2), expected (3, 38)")):
        env.step(jax.random.key(0), state, np.zeros((3, 2), np.float32), params)
    batch = vector.batch(env, 2)
    assert batch.env.spec.action_dim == 38
