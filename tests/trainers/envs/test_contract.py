"""What the check of batched environments finds."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from helpers.guess import Guess

from entropy_env import Swarm, SwarmSpec, vector
from trainers.envs.contract import check_env

CHOICE = jax.ShapeDtypeStruct((), np.int32)


def test_environments_that_keep_the_contract_pass() -> None:
    assert check_env(Guess(), (), CHOICE) == (8, 1, 3)
    env = Swarm(SwarmSpec(num_agents=3, on_goal="respawn"))
    checked = check_env(vector.batch(env, 2), env.make_params(), jax.ShapeDtypeStruct((2,), np.float32))
    assert checked == (2, 3, env.spec.obs_dim)


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
