"""What the check of batched environments finds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.guess import Guess

from entropy_env import Swarm, SwarmSpec, vector
from trainers.any_env import open_env
from trainers.envs.contract import check_env, going_on
from trainers.envs.views import Central

CHOICE = jax.ShapeDtypeStruct((), np.int32)


def test_environments_that_keep_the_contract_pass() -> None:
    assert check_env(Guess(), (), CHOICE) == (8, 1, 3)
    env = Swarm(SwarmSpec(num_agents=3, on_goal="respawn"))
    checked = check_env(vector.batch(env, 2), env.make_params(), jax.ShapeDtypeStruct((2,), np.float32))
    assert checked == (2, 3, env.spec.obs_dim)


class Showing(Guess):
    """Shows a critic a row for each lane, but not what it looked like at the end."""

    def critic_input(self, state: Any, params: Any) -> Any:
        return jnp.zeros((8, 1, 5), jnp.float32)


class Flat(Showing):
    def critic_input(self, state: Any, params: Any) -> Any:
        return jnp.zeros((8, 5), jnp.float32)


def test_what_a_critic_sees_is_checked_if_it_sees_more_than_observations() -> None:
    assert check_env(Showing(), (), CHOICE) == (8, 1, 3)
    with pytest.raises(ValueError, match=r"info\['final_critic_input'\] must be float32\[8, 1, 5\], and is absent"):
        check_env(Showing(), (), CHOICE, "central")
    with pytest.raises(ValueError, match=r"critic_input must be float32\[8, 1, 5\], and is float32\[8, 5\]"):
        check_env(Flat(), (), CHOICE, "privileged")


def test_worlds_of_a_swarm_show_the_view_that_a_critic_asks_for_unless_they_have_one() -> None:
    swarm, action = Swarm(SwarmSpec(num_agents=3, on_goal="respawn")), jax.ShapeDtypeStruct((2,), np.float32)

    def mine(state: Any, params: Any) -> Any:
        return state.position

    for made, expected in ((swarm, Central(swarm)), (vector.batch(swarm, 2, critic=mine), mine)):
        env, params, _ = open_env(made, 2, "central")
        assert env.critic == expected
        assert check_env(env, params, action, "central") == (2, 3, swarm.spec.obs_dim)
    assert open_env(swarm, 2)[0].critic is None


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        ("obs", ["reset", "float32", "int32[8, 1, 3]"]),
        ("reward", ["Guess", "reward", "float32[8, 1]", "float32[8]"]),
        ("state", ["state", "int32[8, 1]", "float32[8, 1]"]),
        ("final_obs", ["info['final_obs']", "absent"]),
        ("results", ["6", "5 results"]),
    ],
)
def test_what_breaks_the_contract_is_named(breaks: str, words: list[str]) -> None:
    words = [word for word in words if word != "6"]
    with pytest.raises(ValueError) as caught:
        check_env(Guess(breaks=breaks), (), CHOICE)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(("told", "goes_on"), [
    ({}, True), ({"acted": False}, False), ({"terminated": True}, False), ({"truncated": True}, False), ({"over": True}, False),
])  # fmt: skip
def test_an_episode_goes_on_unless_it_ended_or_the_agent_took_no_part_or_the_world_is_over(
    told: dict[str, bool], goes_on: bool
) -> None:
    said = {"acted": True, "terminated": False, "truncated": False} | told
    flags = {name: np.full((2, 3), flag) for name, flag in said.items() if name != "over"}
    over = {"over": np.full(2, said["over"])} if "over" in said else {}
    found = going_on(flags["terminated"], flags["truncated"], {"acted": flags["acted"], **over})
    np.testing.assert_array_equal(found, np.full((2, 3), goes_on))
