"""What a network makes of an inbox: order, empty slots, and places in the listener's frame."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropy_env.types import HEARD
from trainers.networks.inbox import CONTEXT, KINDS, Inbox, Listener

FIRST, SLOTS, AFTER = 3, 5, 2  # numbers of an observation before and after the slots
REACH, SCALE = 8.0, 10.0  # m
WIDTH = FIRST + HEARD * SLOTS + AFTER


def inbox(kind: str = "attention", slots: int = SLOTS) -> Inbox:
    return Inbox(FIRST, slots, REACH, SCALE, kind)


def seen(taken: Any = (1, 1, 1, 0, 0), rows: int = 6, seed: int = 0) -> np.ndarray:
    """Observations (rows, WIDTH) with words in the slots that are taken."""
    rng = np.random.default_rng(seed)
    slots = rng.uniform(-0.5, 0.5, (rows, len(taken), HEARD))
    slots[..., 2:4] /= np.linalg.norm(slots[..., 2:4], axis=-1, keepdims=True)
    slots[..., 4] = rng.integers(1, 32, slots.shape[:2]) / 31
    slots *= np.asarray(taken)[:, None]
    rest = np.random.default_rng(seed + 1).normal(size=(rows, FIRST + AFTER))
    return np.concatenate([rest[:, :FIRST], slots.reshape(rows, -1), rest[:, FIRST:]], axis=1).astype(np.float32)


def listener(kind: str, slots: int = SLOTS) -> tuple[Listener, Any]:
    """A listener whose weights are not those of the beginning."""
    module = Listener(inbox(kind, slots))
    params = module.init(jax.random.key(0), jnp.zeros((1, FIRST + HEARD * slots + AFTER)))
    return module, jax.tree.map(
        lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape), params
    )


def hear(module: Listener, params: Any, obs: Any) -> tuple[np.ndarray, np.ndarray]:
    """What it makes of observations, and the weights of the slots."""
    found, kept = module.apply(params, jnp.asarray(obs), mutable=["intermediates"])
    return np.asarray(found), np.asarray(kept["intermediates"]["attention"][0])


def rearranged(obs: np.ndarray, order: Any) -> np.ndarray:
    slots = obs[:, FIRST : WIDTH - AFTER].reshape(len(obs), SLOTS, HEARD)[:, order]
    return np.concatenate([obs[:, :FIRST], slots.reshape(len(obs), -1), obs[:, WIDTH - AFTER :]], axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_speakers_may_come_in_any_order_and_empty_slots_anywhere(kind: str) -> None:
    module, params = listener(kind)
    obs = seen()
    expected, weights = hear(module, params, obs)
    assert np.ptp(expected[:, -CONTEXT:], axis=0).max() > 0.1, "it listens"
    for order in ([2, 0, 1, 3, 4], [3, 1, 4, 2, 0], [4, 3, 2, 1, 0]):
        found, moved = hear(module, params, rearranged(obs, order))
        np.testing.assert_allclose(found, expected, atol=2e-6)
        np.testing.assert_allclose(moved, weights[:, order], atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_else_is_in_an_empty_slot_or_how_many_there_are_does_not_matter(kind: str) -> None:
    module, params = listener(kind)
    obs = seen()
    full = np.array(obs)
    full[:, FIRST + 3 * HEARD : FIRST + 3 * HEARD + 4] = 7.0  # no token
    fewer = np.concatenate([obs[:, : FIRST + 3 * HEARD], obs[:, WIDTH - AFTER :]], axis=1)
    expected, _ = hear(module, params, obs)
    np.testing.assert_array_equal(hear(module, params, full)[0], expected)
    np.testing.assert_allclose(hear(Listener(inbox(kind, 3)), params, fewer)[0], expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("taken", [(1, 1, 1, 1, 1), (0, 1, 0, 0, 1), (0, 0, 0, 1, 0), (0, 0, 0, 0, 0)])
def test_weights_of_those_who_speak_sum_to_1(kind: str, taken: tuple[int, ...]) -> None:
    _, weights = hear(*listener(kind), seen(taken))
    taken = np.asarray(taken, bool)
    assert np.all(weights[:, ~taken] == 0)
    np.testing.assert_allclose(weights.sum(axis=1), float(taken.any()), atol=1e-6)
    if kind == "mean" and taken.any():
        np.testing.assert_allclose(weights[:, taken], 1 / taken.sum(), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_silence_is_zero_before_learning_and_has_finite_gradients(kind: str) -> None:
    module = Listener(inbox(kind))
    params = module.init(jax.random.key(0), jnp.zeros((1, WIDTH)))
    quiet = jnp.asarray(seen((0,) * SLOTS))
    assert np.all(hear(module, params, quiet)[0][:, -CONTEXT:] == 0)

    def loss(params: Any, obs: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(module.apply(params, obs) + 1))

    for obs in (quiet, jnp.zeros_like(quiet), jnp.asarray(seen((0, 1, 0, 0, 0))), 10 * jnp.ones_like(quiet)):
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(jax.grad(loss, (0, 1))(params, obs)))


def test_places_that_a_speaker_tells_come_out_in_the_listeners_frame() -> None:
    rng = np.random.default_rng(3)
    speaker, mine = rng.uniform(0, 5, (2, 40, 2))
    heading, facing = rng.uniform(-np.pi, np.pi, (2, 40))
    places = rng.uniform(0, 5, (2, 40, 2))  # m, of the world

    def turned(v: np.ndarray, angle: np.ndarray) -> np.ndarray:
        cos, sin = np.cos(angle), np.sin(angle)
        return np.stack([v[..., 0] * cos - v[..., 1] * sin, v[..., 0] * sin + v[..., 1] * cos], axis=-1)

    told = np.concatenate([turned(place - speaker, -heading) / SCALE for place in places], axis=-1)
    turn = heading - facing
    columns = [turned(speaker - mine, -facing) / REACH, np.cos(turn)[:, None], np.sin(turn)[:, None]]
    slots = np.concatenate([*columns, np.full((40, 1), 6 / 31), told], axis=-1)
    features = np.asarray(inbox().features(jnp.asarray(slots, jnp.float32)))
    np.testing.assert_array_equal(features[..., 2:HEARD], slots[..., 2:].astype(np.float32))
    np.testing.assert_allclose(
        features[..., :2] * SCALE, turned(speaker - mine, -facing), atol=3e-6
    )  # whatever the reach
    expected = np.concatenate([turned(place - mine, -facing) for place in places], axis=-1)
    np.testing.assert_allclose(features[..., HEARD:] * SCALE, expected, atol=3e-6)


def test_a_robot_listens_at_first_to_the_word_that_is_meant_for_it() -> None:
    module = Listener(inbox())
    obs = seen((1,) * SLOTS, rows=200)
    params = module.init(jax.random.key(0), jnp.asarray(obs))
    _, weights = hear(module, params, obs)
    slots = jnp.asarray(obs[:, FIRST : WIDTH - AFTER].reshape(-1, SLOTS, HEARD))
    away = np.linalg.norm(inbox().features(slots)[..., HEARD : HEARD + 2], axis=-1) * SCALE
    np.testing.assert_array_equal(weights.argmax(axis=1), away.argmin(axis=1))
    closest = np.sort(away, axis=1)
    assert np.all(weights.max(axis=1)[closest[:, 1] ** 2 > closest[:, 0] ** 2 + 4] > 0.95)


def test_every_weight_of_attention_is_learnt() -> None:
    module, params = listener("attention")
    obs = jnp.asarray(seen((1,) * SLOTS)).at[:, FIRST : WIDTH - AFTER].mul(0.2)
    gradients = jax.grad(lambda params: jnp.sum(jnp.sin(module.apply(params, obs))))(params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_an_observation_falls_into_words_and_the_rest() -> None:
    obs = seen()
    rest, slots = inbox().split(jnp.asarray(obs))
    np.testing.assert_array_equal(rest, np.delete(obs, np.arange(WIDTH)[inbox().columns], axis=1))
    np.testing.assert_array_equal(slots.reshape(len(obs), -1), obs[:, inbox().columns])


def test_an_unknown_way_of_listening_is_named() -> None:
    with pytest.raises(ValueError, match="comm='sum' must be one of attention, mean"):
        inbox("sum")
