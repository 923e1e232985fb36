"""What a network makes of the words that a robot hears."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from entropy_env.types import HEARD, PAYLOAD
from trainers.networks.rows import on_rows

KINDS = ("attention", "mean")
CONTEXT = 64  # numbers that a listener makes of an inbox
QUERY = 32  # units of the layer before the query
FEATURES = HEARD + PAYLOAD  # numbers of a slot, with both places of its payload in the listener's frame


@dataclasses.dataclass(frozen=True)
class Inbox:
    """Where words stand in an observation, and how a network takes them in."""

    first: int  # column of the first slot
    slots: int
    reach: float  # m, `comm_range`, over which offsets are observed
    scale: float  # m, `goal_scale`, over which payloads tell places
    kind: str = "attention"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"comm={self.kind!r} must be one of {', '.join(KINDS)}")

    @property
    def columns(self) -> slice:
        """The columns of the inbox."""
        return slice(self.first, self.first + HEARD * self.slots)

    def split(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the observation (..., D) without the inbox, and its slots (..., slots, 9)."""
        here = self.columns
        rest = jnp.concatenate([obs[..., : here.start], obs[..., here.stop :]], axis=-1)
        return rest, obs[..., here].reshape(*obs.shape[:-1], self.slots, HEARD)

    def features(self, slots: jax.Array) -> jax.Array:
        """Return slots (..., 9) and, in the listener's frame, the two places of their payloads (..., 13).

        The first is where the word says that it is meant for, the second where it says that a goal is. These and the
        speaker's offset are over `scale`, whatever the reach.
        """
        x, y, cos, sin, token, *payload = (slots[..., k] for k in range(HEARD))
        x, y = (offset * (self.reach / self.scale) for offset in (x, y))
        places = []
        for ahead, left in (payload[:2], payload[2:]):
            places += [x + ahead * cos - left * sin, y + ahead * sin + left * cos]
        return jnp.stack([x, y, cos, sin, token, *payload, *places], axis=-1)


class Listener(nn.Module):
    """One query over an inbox, in any order of the speakers (Das et al. 2019, "TarMAC"; Vaswani et al. 2017).

    Keys are the slots themselves, and values are projected after weighting. The score of a slot starts from the squared
    distance of the place it is meant for, so that a robot listens to what is meant for it before it has learnt anything.
    """

    inbox: Inbox
    dtype: Any = None

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Map obs (..., D) to what is observed without the inbox, and what is made of it, (..., D - 9 slots + CONTEXT).

        The weights (..., slots) are sown as `attention`.
        """
        rest, slots = self.inbox.split(obs)
        features = self.inbox.features(slots)
        taken = slots[..., 4] > 0
        if self.inbox.kind == "mean":
            score = jnp.zeros(taken.shape, jnp.float32)
        else:
            hidden = nn.Dense(QUERY, dtype=self.dtype, kernel_init=nn.initializers.orthogonal(math.sqrt(2)), name="ask")
            query = nn.Dense(FEATURES, dtype=self.dtype, kernel_init=nn.initializers.orthogonal(0.01), name="query")
            asked = on_rows(query, jnp.tanh(on_rows(hidden, rest)))  # times float32 it is that again
            sharpness = self.param("sharpness", nn.initializers.constant(1.0), (), jnp.float32)  # 1 / m^2
            away = jnp.sum(jnp.square(features[..., HEARD : HEARD + 2] * self.inbox.scale), axis=-1)
            score = jnp.sum(features * asked[..., None, :], axis=-1) - nn.softplus(sharpness) * away
        score = jnp.where(taken, score, -jnp.inf)
        most = jnp.maximum(jnp.max(score, axis=-1, keepdims=True), -1e9)  # finite where nobody speaks
        share = jnp.exp(score - jax.lax.stop_gradient(most))
        weights = share / jnp.maximum(jnp.sum(share, axis=-1, keepdims=True), 1e-9)
        self.sow("intermediates", "attention", weights)
        told = jnp.sum(weights[..., None] * features, axis=-2)
        project = nn.Dense(
            CONTEXT, dtype=self.dtype, kernel_init=nn.initializers.orthogonal(math.sqrt(2)), name="value"
        )
        return jnp.concatenate([rest, on_rows(project, told)], axis=-1)
