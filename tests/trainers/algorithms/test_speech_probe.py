"""A probe that only words solve: one robot sees a bit, and the other has to act by it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import bits
from helpers.bits import CUT, OPEN, TOKENS_ALONE

from trainers.envs.contract import check_env

UPDATES = 80


def learn(params: jax.Array, *about: Any, **options: Any) -> tuple[list[float], list[dict[str, Any]]]:
    """Shares of right answers after each update, and the other figures. about: see `bits.make`."""
    ppo = bits.make(*about, updates=UPDATES, **options)
    runner = ppo.init(jax.random.key(0), params)
    figures = []
    for _ in range(UPDATES):
        runner, metrics = ppo.update(runner, params)
        figures.append(jax.device_get(metrics))
    return [float(each["train/episode_return"]) for each in figures], figures


def test_the_probe_keeps_the_contract() -> None:
    env = bits.Bits(4)
    assert check_env(env, OPEN, jax.ShapeDtypeStruct((38,), jnp.float32)) == (4, 2, bits.SEEN + 9)


def test_a_bit_is_heard_a_step_later_unless_the_channel_is_cut() -> None:
    env, key = bits.Bits(64), jax.random.key(1)
    _, state = env.reset(key, OPEN)
    said = jnp.zeros((64, 2, 38)).at[:, :, 2 + 9].set(1.0).at[:, 0, 36].set(0.5 * state.bit)
    first = np.asarray(state.clock == 0)
    for params, words in ((OPEN, 1), (TOKENS_ALONE, 1), (CUT, 0)):
        obs, after, *_ = env.step(key, state, said, params)
        slot = np.asarray(obs)[first, 1, bits.SEEN :]
        np.testing.assert_allclose(slot[:, 4], words * 9 / 31, atol=1e-6)
        np.testing.assert_allclose(slot[:, 7], 0.5 * state.bit[first] * (params[1] > 0))
        np.testing.assert_array_equal(np.asarray(env.heard(after, params))[first, 1, 0], 0 if words else -1)
        assert np.all(np.asarray(obs)[~first, 1, bits.SEEN :] == 0), "a word dies with its episode"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["reinforced", "hard", "soft", "differentiable"])
@pytest.mark.parametrize("params", [OPEN, TOKENS_ALONE], ids=["words", "tokens alone"])
def test_a_bit_is_passed_on(method: str, params: jax.Array) -> None:
    right, figures = learn(params, method)
    assert np.mean(right[-10:]) > 0.95
    if method == "hard":
        first, last = (figures[k]["loss/communication"] for k in (0, UPDATES // 2 - 1))
        assert first > 10
        assert last < 0.2
        assert figures[UPDATES // 2 - 1]["comm/grounding_accuracy"] > 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "options"), [("mean", {}), (None, {}), ("attention", {"network": "gru"})])
def test_it_is_with_any_way_of_listening(kind: str | None, options: dict[str, Any]) -> None:
    assert np.mean(learn(OPEN, "reinforced", kind, **options)[0][-10:]) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("method", ["reinforced", "soft", "differentiable"])
def test_nothing_is_learnt_through_a_cut_channel(method: str) -> None:
    assert np.mean(learn(CUT, method)[0][-10:]) == pytest.approx(0.5, abs=0.05)
