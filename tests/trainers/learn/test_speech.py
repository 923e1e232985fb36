"""The distribution of motors and words, help with what to say, and gradients through words, against plain formulas."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import norm

from entropy_env.types import HEARD, PAYLOAD, TOKENS
from trainers.learn.distributions import Gaussian, TanhGaussian
from trainers.learn.speech import METHODS, PAYLOAD_LOG_STD, Speech, Talking, through_channel, word_figures
from trainers.networks.inbox import Inbox, Listener

TALKING = Talking(Gaussian(2))
KEY = jax.random.key(0)


def described(*lanes: int, seed: int = 0, talking: Talking = TALKING) -> tuple[jax.Array, jax.Array]:
    """What a network may say of actions: means and logits (*lanes, 38), and log deviations (6,)."""
    rng = np.random.default_rng(seed)
    log_std = [-0.7, 0.1, -3.0, -2.0, -1.0, -0.5]
    return jnp.asarray(rng.normal(size=(*lanes, talking.outputs)), jnp.float32), jnp.asarray(log_std, jnp.float32)


@pytest.mark.parametrize("motors", [Gaussian(2), TanhGaussian(2)])
def test_the_log_probability_is_the_sum_of_those_of_motors_payload_and_token(motors: Gaussian) -> None:
    talking, about = Talking(motors), described(50)
    action = talking.sample(KEY, about)
    (mean, log_std), numbers = (np.asarray(x, np.float64) for x in about), np.asarray(action, np.float64)
    parts = norm.logpdf(numbers[:, :6], mean[:, :6], np.exp(log_std))
    if isinstance(motors, TanhGaussian):
        parts[:, :2] -= np.log1p(-np.square(np.tanh(numbers[:, :2])))
    token = numbers[:, 6].astype(int)
    of_token = log_softmax(mean[:, 6:], axis=1)[np.arange(50), token]
    expected = parts.sum(axis=1) + of_token
    np.testing.assert_allclose(talking.log_prob(action, about), expected, rtol=1e-5, atol=1e-5)
    given = action.at[:, -1].set(0.0)
    np.testing.assert_allclose(talking.log_prob(given, about), parts[:, :2].sum(axis=1), rtol=1e-5, atol=1e-5)
    wordless = dataclasses.replace(talking, worded=False)
    np.testing.assert_array_equal(wordless.log_prob(action, about), wordless.log_prob(given, about))
    np.testing.assert_allclose(wordless.log_prob(action, about), parts[:, :2].sum(axis=1), rtol=1e-5, atol=1e-5)


def test_tokens_are_drawn_as_often_as_the_softmax_says_and_numbers_as_normal_ones() -> None:
    about, draws = described(1), 20_000
    action, noise = jax.vmap(TALKING.sample_with, (0, None))(jax.random.split(KEY, draws), about)
    motors, payload, token, own = (np.asarray(x)[:, 0] for x in TALKING.split(action))
    mean, std = np.asarray(about[0]), np.exp(np.asarray(about[1]))
    frequencies = np.bincount(token, minlength=TOKENS) / draws
    np.testing.assert_allclose(frequencies, softmax(mean[0, 6:]), atol=0.012)
    numbers = np.concatenate([motors, payload], axis=1)
    np.testing.assert_allclose(numbers.mean(axis=0), mean[0, :6], atol=0.05)
    np.testing.assert_allclose(numbers.std(axis=0), std, rtol=0.03)
    assert own.all()
    np.testing.assert_allclose(payload, mean[0, 2:6] + std[2:] * np.asarray(noise)[:, 0, :PAYLOAD], atol=1e-6)
    np.testing.assert_array_equal(token, np.argmax(mean[0, 6:] + np.asarray(noise)[:, 0, PAYLOAD:], axis=1))
    assert np.abs(np.corrcoef(np.asarray(noise)[:, 0, : PAYLOAD + 3].T) - np.eye(PAYLOAD + 3)).max() < 0.03


@pytest.mark.parametrize("motors", [Gaussian(2), TanhGaussian(2)])
def test_the_simulator_speaks_the_token_of_an_executed_action(motors: Gaussian) -> None:
    talking, about = Talking(motors), described(4, 200)
    for action in (talking.sample(KEY, about), talking.mode(about)):
        _, payload, token, _ = talking.split(action)
        executed = np.asarray(talking.executed(action))
        assert executed.shape == (4, 200, 2 + TOKENS + PAYLOAD)
        scores = executed[..., 2 : 2 + TOKENS]
        assert set(np.unique(scores)) == {-1, 1}
        np.testing.assert_array_equal(np.clip(scores, -1, 1).argmax(axis=-1), token)
        np.testing.assert_array_equal(executed[..., 2 + TOKENS :], payload)
        np.testing.assert_array_equal(executed[..., :2], motors.executed(action[..., :2]))
    np.testing.assert_array_equal(talking.split(talking.mode(about))[2], np.asarray(about[0])[..., 6:].argmax(axis=-1))


def test_entropies_are_those_of_the_motors_and_of_the_tokens() -> None:
    about = described(7)
    mean, log_std = (np.asarray(x, np.float64) for x in about)
    np.testing.assert_allclose(TALKING.entropy(about), norm.entropy(scale=np.exp(log_std[:2])).sum(), rtol=1e-5)
    probabilities = softmax(mean[:, 6:], axis=1)
    np.testing.assert_allclose(
        TALKING.token_entropy(about), -(probabilities * np.log(probabilities)).sum(axis=1), rtol=1e-5
    )


def test_payloads_begin_with_a_small_deviation_of_their_own() -> None:
    assert TALKING.initial_log_std(-0.7) == (-0.7, -0.7, *(PAYLOAD_LOG_STD,) * PAYLOAD)
    assert TALKING.outputs == 2 + PAYLOAD + TOKENS


def helped(method: str, share: float, progress: float) -> float:
    return float(Speech(method, share).at(jnp.float32(progress)).help)


def test_hard_help_is_whole_and_then_none_and_soft_help_falls_linearly() -> None:
    for progress, hard, soft in (
        (0, 1, 1),
        (0.1, 1, 0.8),
        (0.25, 1, 0.5),
        (0.499, 1, 0.002),
        (0.5, 0, 0),
        (0.75, 0, 0),
        (1, 0, 0),
    ):
        assert helped("hard", 0.5, progress) == hard
        assert helped("soft", 0.5, progress) == pytest.approx(soft, abs=1e-6)
    assert all(helped(method, 0.5, k / 37) == 0 for method in ("hard", "soft") for k in range(19, 38)), "the last half"
    assert helped("soft", 1.0, 0.9) == pytest.approx(0.1, abs=1e-6)
    assert Speech("reinforced").at(jnp.float32(0)).help == Speech("differentiable").at(jnp.float32(0)).help == 0


def told(*lanes: int) -> jax.Array:
    """What would be true to say, (*lanes, 5)."""
    rng = np.random.default_rng(7)
    truth = rng.uniform(-1, 1, (*lanes, PAYLOAD + 1))
    truth[..., -1] = rng.integers(0, TOKENS, lanes)
    return jnp.asarray(truth, jnp.float32)


@pytest.mark.parametrize("method", ["hard", "soft"])
@pytest.mark.parametrize("help_", [0.0, 0.3, 1.0])
def test_as_many_messages_are_replaced_as_there_is_help_and_they_are_not_the_policys(method: str, help_: float) -> None:
    about, truth = described(5000), told(5000)
    action, noise = Speech(method, help=help_).choose(KEY, TALKING, about, truth)
    assert noise is None
    motors, payload, token, own = TALKING.split(action)
    assert float(jnp.mean(~own)) == pytest.approx(help_, abs=0.03 if 0 < help_ < 1 else 0)
    np.testing.assert_array_equal(payload[~own], truth[~own, :PAYLOAD])
    np.testing.assert_array_equal(token[~own], truth[~own, -1])
    free, _ = Speech().choose(KEY, TALKING, about, None)
    np.testing.assert_array_equal(action[own], free[own])
    np.testing.assert_array_equal(motors, free[:, :2])
    log_prob = np.asarray(TALKING.log_prob(action, about))
    alone = Gaussian(2).log_prob(motors, TALKING.parts(about)[0])
    np.testing.assert_array_equal(log_prob[~own], alone[~own])
    assert np.all(log_prob[own] != alone[own])
    spoken = np.asarray(TALKING.executed(action))[:, 2 : 2 + TOKENS].argmax(axis=1)
    np.testing.assert_array_equal(spoken, token)


def test_noise_is_kept_for_gradients_alone() -> None:
    for method in METHODS:
        _, noise = Speech(method).choose(KEY, TALKING, described(3), told(3))
        assert (noise is not None) == (method == "differentiable")


def test_the_loss_of_speaking_is_that_of_imitation_less_the_entropy_of_own_tokens() -> None:
    about, truth = described(60), told(60)
    speech = Speech("soft", speaker_coefficient=0.4, token_entropy_coefficient=0.3, help=0.25)
    action = TALKING.replace_words(TALKING.sample(KEY, about), truth, jnp.arange(60) % 3 == 0)
    mask = jnp.arange(60) % 5 > 0
    total, figures = speech.loss(TALKING, about, action, truth, mask, None)
    mean, true, here = np.asarray(about[0], np.float64), np.asarray(truth, np.float64), np.asarray(mask)
    token = true[:, -1].astype(int)
    error = np.square(mean[:, 2:6] - true[:, :4]).sum(axis=1) * (token > 0)
    imitation = 0.5 * error / np.exp(PAYLOAD_LOG_STD) ** 2 - log_softmax(mean[:, 6:], axis=1)[np.arange(60), token]
    probabilities = softmax(mean[:, 6:], axis=1)
    entropy = -(probabilities * np.log(probabilities)).sum(axis=1)
    own = here & (np.arange(60) % 3 > 0)
    assert float(figures["loss/communication"]) == pytest.approx(imitation[here].mean(), rel=1e-5)
    assert float(figures["comm/message_entropy"]) == pytest.approx(entropy[here].mean(), rel=1e-5)
    assert float(total) == pytest.approx(0.4 * 0.25 * imitation[here].mean() - 0.3 * entropy[own].mean(), rel=1e-5)
    gone, _ = dataclasses.replace(speech, help=0.0).loss(TALKING, about, action, truth, mask, None)
    assert float(gone) == pytest.approx(-0.3 * entropy[own].mean(), rel=1e-5)


def test_a_given_message_counts_in_no_entropy() -> None:
    about, truth = described(8), told(8)
    action, given = TALKING.sample(KEY, about), jnp.arange(8) < 3
    speech = Speech("soft", token_entropy_coefficient=1.0)

    def loss(mean: jax.Array) -> jax.Array:
        replaced = TALKING.replace_words(action, truth, given)
        return speech.loss(TALKING, (mean, about[1]), replaced, truth, jnp.ones(8, bool), None)[0]

    moved = np.any(np.asarray(jax.grad(loss)(about[0])) != 0, axis=1)
    np.testing.assert_array_equal(moved, ~np.asarray(given))


def test_those_who_say_the_truth_are_right_and_those_who_are_half_a_metre_off_are_not() -> None:
    truth = told(6).at[:, -1].set(jnp.array([6, 6, 6, 6, 0, 0], jnp.float32))
    logits = 9.0 * jax.nn.one_hot(truth[:, -1].astype(jnp.int32), TOKENS).at[3].set(0.0)
    payload = truth[:, :PAYLOAD].at[1, 0].add(0.049).at[2, 0].add(0.051).at[4].add(0.5)
    about = jnp.concatenate([jnp.zeros((6, 2)), payload, logits], axis=1), described(1)[1]
    speech, everybody = Speech("hard"), jnp.ones(6, bool)
    _, figures = speech.loss(TALKING, about, TALKING.mode(about), truth, everybody, None)
    assert float(figures["comm/grounding_accuracy"]) == pytest.approx(4 / 6)  # all but 2 and 3; silence tells no place


def test_an_unknown_way_to_learn_is_named() -> None:
    with pytest.raises(ValueError, match="speech='soft-ish' must be one of reinforced, hard, soft, differentiable"):
        Speech("soft-ish")


def test_figures_of_words_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(2)
    action = rng.normal(size=(5, 4, 3, 8)).astype(np.float32)
    action[..., -2] = rng.integers(0, 4, (5, 4, 3))
    acted = rng.random((5, 4, 3)) < 0.7
    figures = jax.device_get(word_figures(TALKING, jnp.asarray(action), jnp.asarray(acted)))
    said = [int(action[(*lane, -2)]) for lane in np.argwhere(acted)]
    assert figures["comm/silence_rate"] == pytest.approx(said.count(0) / len(said))
    assert figures["comm/messages_per_step"] == pytest.approx(sum(token > 0 for token in said) / 20)
    np.testing.assert_array_equal(figures["comm/token_distribution"], np.bincount(said, minlength=TOKENS))


# Gradients through words. In float64, so that finite differences are sharp.

STEPS, WORLDS, ROBOTS, SLOTS, OWN = 4, 2, 3, 2, 3
INBOX = Inbox(1, SLOTS, 8.0, 10.0)


@dataclasses.dataclass
class Said:
    """A rollout in which words were said and heard."""

    obs: Any  # (STEPS, WORLDS, ROBOTS, OWN + 18)
    action: Any
    noise: Any
    heard: Any


@pytest.fixture
def precise():
    with jax.enable_x64(True):
        yield


def rollout(about: Any, seed: int = 1) -> Said:
    """Words that `about` describes, drawn with its noise and heard by others a step later. Some are clipped on the way."""
    rng = np.random.default_rng(seed)
    lanes = STEPS, WORLDS, ROBOTS
    noise = np.concatenate([rng.normal(size=(*lanes, PAYLOAD)), rng.gumbel(size=(*lanes, TOKENS))], axis=-1)
    mean, log_std = (np.asarray(x) for x in about)
    payload = mean[..., 2:6] + np.exp(log_std[2:]) * noise[..., :PAYLOAD]
    token = np.argmax(mean[..., 6:] + noise[..., PAYLOAD:], axis=-1)
    action = np.concatenate([rng.normal(size=(*lanes, 2)), payload, token[..., None], np.ones((*lanes, 1))], axis=-1)
    heard = np.full((*lanes, SLOTS), -1, np.int32)
    slots = rng.uniform(-0.4, 0.4, (*lanes, SLOTS, HEARD))
    for t, s, n in np.ndindex(STEPS - 1, WORLDS, ROBOTS):
        speakers = [j for j in rng.permutation(ROBOTS) if j != n and token[t, s, j] > 0 and rng.random() < 0.8]
        heard[t + 1, s, n, : len(speakers)] = speakers
    for t, s, n, k in np.ndindex(*heard.shape):
        who = heard[t, s, n, k]
        if who < 0 and t > 0:
            slots[t, s, n, k] = 0
        if who >= 0:
            way = rng.normal(size=PAYLOAD) * 0.3  # what the channel adds
            slots[t, s, n, k, 4] = token[t - 1, s, who] / 31
            slots[t, s, n, k, 5:] = np.clip(np.clip(payload[t - 1, s, who], -1, 1) + way, -1, 1)
    slots[0, ..., 4] = np.abs(slots[0, ..., 4])  # who said that is not known here
    rest = rng.normal(size=(*lanes, OWN))
    obs = np.concatenate([rest[..., :1], slots.reshape(*lanes, -1), rest[..., 1:]], axis=-1)
    return Said(*map(jnp.asarray, (obs, action, noise, heard)))


def channel(about: Any, said: Said) -> jax.Array:
    return through_channel(TALKING, INBOX.columns, about, said.obs, said.action, said.noise, said.heard)


def described_exactly(seed: int = 0) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(STEPS, WORLDS, ROBOTS, TALKING.outputs)) * 0.7
    return jnp.asarray(mean), jnp.asarray([-0.7, 0.1, -3.0, -2.0, -1.0, -0.5])


def test_words_stay_as_they_were_with_the_weights_that_spoke(precise: None) -> None:
    about = described_exactly()
    said = rollout(about)
    np.testing.assert_allclose(channel(about, said), said.obs, atol=1e-14)
    changed = channel((about[0] + 0.01, about[1]), said)
    np.testing.assert_array_equal(changed[0], said.obs[0])
    np.testing.assert_array_equal(
        np.delete(changed, np.r_[INBOX.columns], axis=-1), np.delete(said.obs, np.r_[INBOX.columns], axis=-1)
    )
    assert np.abs(changed - said.obs).max() == pytest.approx(0.01, rel=1e-6)


def test_each_payload_moves_the_slots_it_filled_a_step_later_and_nothing_else(precise: None) -> None:
    about = described_exactly()
    said = rollout(about)
    found = np.asarray(jax.jacobian(lambda mean: channel((mean, about[1]), said))(about[0]))[..., :6]
    slots, action, heard = INBOX.split(said.obs)[1], np.asarray(said.action), np.asarray(said.heard)
    expected, open_, shut = np.zeros_like(found), 0, 0
    for t, s, n, k in np.ndindex(*heard.shape):
        who = heard[t, s, n, k]
        for j in range(PAYLOAD):
            passes = t > 0 and who >= 0 and abs(action[t - 1, s, who, 2 + j]) < 1 and abs(slots[t, s, n, k, 5 + j]) < 1
            if passes:
                expected[t, s, n, INBOX.first + k * HEARD + 5 + j, t - 1, s, who, 2 + j] = 1
            open_, shut = open_ + passes, shut + (who >= 0 and not passes)
    assert open_ > 40
    assert shut > 10
    assert np.any(heard[1:] < 0), "some slots are empty"
    np.testing.assert_allclose(found, expected, atol=1e-12)


def loss_of(weights: dict[str, Any], hear: Callable[[Any], Any], seen: jax.Array, listener: Any) -> jax.Array:
    """What listeners say of words whose speakers have these weights: any number that depends on all of it."""
    mean = jnp.concatenate(
        [jnp.zeros((*seen.shape[:-1], 2)), jnp.tanh(seen @ weights["payload"]), seen @ weights["token"]], -1
    )
    module, params = listener
    out = module.apply(params, hear((mean, jnp.concatenate([jnp.zeros(2), weights["log_std"]]))))
    return jnp.sum(jnp.sin(out) * jnp.cos(jnp.arange(out.size).reshape(out.shape)))


def prepared() -> tuple[dict[str, Any], Said, jax.Array, Any]:
    rng = np.random.default_rng(5)
    seen = jnp.asarray(rng.normal(size=(STEPS, WORLDS, ROBOTS, 4)))
    weights = {
        "payload": rng.normal(size=(4, PAYLOAD)),
        "token": rng.normal(size=(4, TOKENS)),
        "log_std": np.full(PAYLOAD, -1.5),
    }
    weights = {name: jnp.asarray(value) for name, value in weights.items()}
    kept: list[Any] = []
    module = Listener(INBOX)
    params = module.init(KEY, jnp.zeros((1, OWN + HEARD * SLOTS)))
    params = jax.tree.map(lambda x: x.astype(jnp.float64) + 0.1, params)

    def speak(about: Any) -> Any:
        kept.append(rollout(about))
        return kept[-1].obs

    loss_of(weights, speak, seen, (module, params))
    return weights, kept[0], seen, (module, params)


def assert_differences(function: Callable[[Any], Any], gradient: Any, at: jax.Array, step: float = 1e-6) -> None:
    """The gradient along some directions against central differences."""
    assert np.abs(gradient).max() > 1e-2
    for seed in range(5):
        direction = jnp.asarray(np.random.default_rng(seed).normal(size=at.shape))
        found = (function(at + step * direction) - function(at - step * direction)) / (2 * step)
        assert float(jnp.sum(gradient * direction)) == pytest.approx(float(found), rel=2e-5, abs=1e-5)


@pytest.mark.parametrize("name", ["payload", "log_std"])
def test_gradients_of_payloads_are_those_of_finite_differences(name: str, precise: None) -> None:
    weights, said, seen, listener = prepared()

    def loss(value: jax.Array) -> jax.Array:
        return loss_of(weights | {name: value}, lambda about: channel(about, said), seen, listener)

    assert_differences(loss, jax.grad(loss)(weights[name]), weights[name])


def test_gradients_of_tokens_are_those_of_the_soft_relaxation(precise: None) -> None:
    weights, said, seen, listener = prepared()
    logits = seen @ weights["token"]

    def relaxed(about: Any) -> jax.Array:
        """The words as they were, but for tokens, which move as much as soft ones."""
        new = np.array(said.obs)
        for t, s, n, k in np.ndindex(*said.heard.shape):
            who = int(said.heard[t, s, n, k])
            if t > 0 and who >= 0:
                here, words = (t - 1, s, who), np.arange(TOKENS)
                gumbel = said.noise[here][PAYLOAD:]
                soft, before = (softmax(np.asarray(x[here] + gumbel)) @ words for x in (about[0][..., 6:], logits))
                new[t, s, n, INBOX.first + k * HEARD + 4] += (soft - before) / 31
        return jnp.asarray(new)

    def straight_through(value: jax.Array) -> jax.Array:
        return loss_of(weights | {"token": value}, lambda about: channel(about, said), seen, listener)

    def soft(value: jax.Array) -> jax.Array:
        return loss_of(weights | {"token": value}, relaxed, seen, listener)

    assert float(soft(weights["token"])) == pytest.approx(float(straight_through(weights["token"])), abs=1e-9)
    assert_differences(soft, jax.grad(straight_through)(weights["token"]), weights["token"])
    moved = weights["token"] + 0.01
    assert float(straight_through(moved)) == pytest.approx(float(straight_through(weights["token"])), abs=1e-12)
