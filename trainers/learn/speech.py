"""How policies speak: the distribution of motors and words, and ways to learn what to say.

- `reinforced`: by the reward alone;
- `hard`: for a share of the training every message is replaced by the truth, and speakers imitate it meanwhile;
- `soft`: the same with a probability that falls linearly from 1 to 0 over that share;
- `differentiable`: listeners' gradients reach speakers through the channel (Foerster et al. 2016, "DIAL"; Das et al. 2019),
  one hop. Payloads are reparametrised, tokens straight-through (Bengio et al. 2013).

A truth is (..., 5): a payload and a token.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from entropy_env.types import HEARD, PAYLOAD, TOKENS
from trainers.learn.distributions import Gaussian, categorical_entropy, categorical_log_prob, gaussian_log_prob
from trainers.learn.losses import masked_mean

METHODS = ("reinforced", "hard", "soft", "differentiable")
PAYLOAD_LOG_STD = -3.0  # of payloads at the start
TEMPERATURE = 1.0  # of the soft token that passes gradients
NEAR = 0.5 / 10  # of a payload: half a metre with the default `goal_scale`


@dataclasses.dataclass(frozen=True)
class Talking:
    """Motors, a payload and a token, each drawn for itself. Actions (..., motors + 6): motors, payload, token, and 1 where
    the words are the policy's own, 0 where they were given to it.

    The network gives the means of motors and payload, then a logit for each token. Given words count neither in
    probabilities nor in entropies. The entropy is that of the motors; that of the tokens is `token_entropy`.
    """

    motors: Gaussian
    worded: bool = True  # whether words count in the probability of an action
    has_scale = True

    @property
    def outputs(self) -> int:
        return self.motors.size + PAYLOAD + TOKENS

    def initial_log_std(self, motors: float) -> tuple[float, ...]:
        """Return the logarithm of the deviation at the start, of motors and payload."""
        return (motors,) * self.motors.size + (PAYLOAD_LOG_STD,) * PAYLOAD

    def parts(self, described: tuple[jax.Array, jax.Array]) -> tuple[tuple, tuple, jax.Array]:
        """Return what describes motors, payload (mean and log deviation each) and token (logits)."""
        (mean, log_std), size = described, self.motors.size
        payload = mean[..., size : size + PAYLOAD], log_std[..., size:]
        return (mean[..., :size], log_std[..., :size]), payload, mean[..., size + PAYLOAD :]

    def split(self, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Return motors (..., M), payload (..., 4), token (...,) int32 and whether words are the policy's own (...,) bool."""
        size = self.motors.size
        payload, token = action[..., size : size + PAYLOAD], action[..., -2].astype(jnp.int32)
        return action[..., :size], payload, token, action[..., -1] > 0

    def noise(self, key: jax.Array, described: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Draw what decides the words, (..., 36): normal numbers for the payload, Gumbel's for the token."""
        k_payload, k_token = jax.random.split(key)
        lanes = described[0].shape[:-1]
        normal = jax.random.normal(k_payload, (*lanes, PAYLOAD), jnp.float32)
        return jnp.concatenate([normal, jax.random.gumbel(k_token, (*lanes, TOKENS), jnp.float32)], axis=-1)

    def sample_with(self, key: jax.Array, described: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Draw actions. Returns them and the noise of their words."""
        k_motors, k_words = jax.random.split(key)
        motors, (mean, log_std), logits = self.parts(described)
        noise = self.noise(k_words, described)
        payload = mean + jnp.exp(log_std) * noise[..., :PAYLOAD]
        token = jnp.argmax(logits + noise[..., PAYLOAD:], axis=-1)
        return self._joined(self.motors.sample(k_motors, motors), payload, token), noise

    def sample(self, key: jax.Array, described: tuple[jax.Array, jax.Array]) -> jax.Array:
        return self.sample_with(key, described)[0]

    def mode(self, described: tuple[jax.Array, jax.Array]) -> jax.Array:
        motors, (mean, _), logits = self.parts(described)
        return self._joined(self.motors.mode(motors), mean, jnp.argmax(logits, axis=-1))

    def executed(self, action: jax.Array) -> jax.Array:
        """Return actions as the simulator takes them: a token is a score of 1 among scores of -1."""
        motors, payload, token, _ = self.split(action)
        scores = jnp.where(token[..., None] == jnp.arange(TOKENS, dtype=jnp.int32), 1.0, -1.0)
        return jnp.concatenate([self.motors.executed(motors), scores, payload], axis=-1)

    def log_prob(self, action: jax.Array, described: tuple[jax.Array, jax.Array]) -> jax.Array:
        of_motors, of_payload, logits = self.parts(described)
        motors, payload, token, own = self.split(action)
        log_prob = self.motors.log_prob(motors, of_motors)
        if not self.worded:
            return log_prob
        words = gaussian_log_prob(payload, *of_payload) + categorical_log_prob(token, logits)
        return log_prob + jnp.where(own, words, 0.0)

    def entropy(self, described: tuple[jax.Array, jax.Array]) -> jax.Array:
        return self.motors.entropy(self.parts(described)[0])

    def token_entropy(self, described: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Return the entropy (...,) of the tokens in nats."""
        return categorical_entropy(self.parts(described)[2])

    def replace_words(self, action: jax.Array, truth: jax.Array, given: jax.Array) -> jax.Array:
        """Return actions whose words are the truth (..., 5) where it is given, (...,) bool."""
        words = jnp.concatenate([truth, jnp.zeros_like(truth[..., :1])], axis=-1)
        kept = action[..., self.motors.size :]
        return jnp.concatenate([action[..., : self.motors.size], jnp.where(given[..., None], words, kept)], axis=-1)

    def _joined(self, motors: jax.Array, payload: jax.Array, token: jax.Array) -> jax.Array:
        token = token[..., None].astype(jnp.float32)
        return jnp.concatenate([motors, payload, token, jnp.ones_like(token)], axis=-1)


@dataclasses.dataclass(frozen=True)
class Speech:
    """How a policy learns to speak. See this file."""

    method: str = "reinforced"
    share: float = 0.5  # of the training in which there is help
    speaker_coefficient: float = 0.1
    token_entropy_coefficient: float = 0.0
    help: Any = 0.0  # probability that a message is replaced by the truth, now

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"speech={self.method!r} must be one of {', '.join(METHODS)}")

    @property
    def grounded(self) -> bool:
        """Whether the truth is needed."""
        return self.method in ("hard", "soft")

    @property
    def differentiable(self) -> bool:
        """Whether gradients pass through the channel."""
        return self.method == "differentiable"

    def at(self, progress: jax.Array) -> Speech:
        """Return the same with the help at some point of the training. progress: () from 0 to 1."""
        if not self.grounded:
            return self
        left = jnp.maximum(1 - progress / max(self.share, 1e-9), 0.0)
        return dataclasses.replace(self, help=jnp.ceil(left) if self.method == "hard" else left)

    def choose(
        self, key: jax.Array, actions: Talking, described: Any, told: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Draw actions, and replace words by the truth (..., 5) where there is help. Returns them and the noise of their
        words, if gradients need it. told: the truth, if `grounded`."""
        k_action, k_help = jax.random.split(key)
        action, noise = actions.sample_with(k_action, described)
        if self.grounded and told is not None:
            given = jax.random.bernoulli(k_help, self.help, action.shape[:-1])
            action = actions.replace_words(action, told, given)
        return action, noise if self.differentiable else None

    def loss(
        self, actions: Talking, described: Any, action: jax.Array, truth: jax.Array | None, mask: jax.Array,
        axis: str | None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:  # fmt: skip
        """Return what speaking adds to the loss, and figures.

        Speakers imitate the truth by cross-entropy, and by the squared error of payloads in units of their first deviation,
        as much as there is help. action, mask: of samples (...,). truth: (..., 5) or None.
        """
        _, (mean, _), logits = actions.parts(described)
        own = mask & actions.split(action)[-1]
        entropy = actions.token_entropy(described)
        total = -self.token_entropy_coefficient * masked_mean(entropy, own, axis)
        figures = {"comm/message_entropy": masked_mean(entropy, mask, axis)}
        if truth is None:
            return total, figures
        payload, token = truth[..., :PAYLOAD], truth[..., -1].astype(jnp.int32)
        error = jnp.sum(jnp.square(mean - payload), axis=-1) * (token > 0)
        imitation = -categorical_log_prob(token, logits) + 0.5 * math.exp(-2 * PAYLOAD_LOG_STD) * error
        imitation = masked_mean(imitation, mask, axis)
        right = (jnp.argmax(logits, axis=-1) == token) & (error < NEAR**2)
        figures["comm/grounding_accuracy"] = masked_mean(right.astype(jnp.float32), mask, axis)
        figures["loss/communication"] = imitation
        return total + self.speaker_coefficient * self.help * imitation, figures


def through_channel(
    actions: Talking, columns: slice, described: Any, obs: jax.Array, action: jax.Array, noise: jax.Array,
    heard: jax.Array,
) -> jax.Array:  # fmt: skip
    """Return the same observations, through whose words gradients reach what described them a step before.

    obs (T, S, N, D), action (T, S, N, A), noise (T, S, N, 36), heard (T, S, N, K) int32: who filled each slot, -1 for none.
    columns: those of the inbox. described: of each step. Words of the first step stay as they are, as do payloads that the
    channel has clipped. Values change as `described` does: not at all with the weights that spoke.
    """
    slots = obs[..., columns].reshape(*obs.shape[:-1], -1, HEARD)
    _, (mean, log_std), logits = actions.parts(described)
    _, payload, _, _ = actions.split(action)
    moved = mean + jnp.exp(log_std) * noise[..., :PAYLOAD] - payload
    moved = jnp.where(jnp.abs(payload) < 1, moved, 0.0)
    soft = jax.nn.softmax((logits + noise[..., PAYLOAD:]) / TEMPERATURE) @ jnp.arange(TOKENS, dtype=jnp.float32)
    soft = (soft - jax.lax.stop_gradient(soft)) / (TOKENS - 1)
    change = jnp.concatenate([soft[..., None], moved], axis=-1)[:-1]  # (T - 1, S, N, 5)
    who = heard[1:]
    flat = jnp.maximum(who, 0).reshape(*who.shape[:2], -1)
    change = jnp.take_along_axis(change, flat[..., None], axis=2).reshape(*who.shape, PAYLOAD + 1)
    open_slots = jnp.abs(slots[1:, ..., -PAYLOAD:]) < 1
    passes = jnp.concatenate([jnp.ones_like(open_slots[..., :1]), open_slots], axis=-1) & (who >= 0)[..., None]
    change = jnp.where(passes, change, 0.0)
    new = slots.at[1:, ..., HEARD - PAYLOAD - 1 :].add(change)
    return obs.at[..., columns].set(new.reshape(*obs.shape[:-1], -1))


def word_figures(
    actions: Talking, action: jax.Array, acted: jax.Array, axis: str | None = None
) -> dict[str, jax.Array]:
    """Return figures of what robots wanted to say in a rollout, whatever `comm_rate` let through.

    action: (T, E, N, A). acted: (T, E, N) bool.
    `comm/messages_per_step` is over worlds; `comm/token_distribution` (32,) counts tokens.
    """
    token = actions.split(action)[2]
    silent = masked_mean((token == 0).astype(jnp.float32), acted, axis)
    spoken = jnp.sum(acted & (token > 0), axis=-1).astype(jnp.float32)
    counts = jnp.sum(jax.nn.one_hot(token, TOKENS, dtype=jnp.int32) * acted[..., None], axis=(0, 1, 2), dtype=jnp.int32)
    return {
        "comm/silence_rate": silent,
        "comm/messages_per_step": masked_mean(spoken, jnp.ones_like(spoken, bool), axis),
        "comm/token_distribution": counts if axis is None else jax.lax.psum(counts, axis),
    }
