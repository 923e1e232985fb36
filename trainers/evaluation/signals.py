"""How much robots say, and how much of where their goals are they tell with it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.types import PAYLOAD, TOKENS

OCTANTS = 8  # directions: ahead, ahead to the left, left and so on
NONE = OCTANTS  # of a place that is nowhere
PLACES = PAYLOAD // 2  # that a payload may tell, two numbers each
SHUFFLES = 20  # over which the baseline of a mutual information is a mean
SYMBOLS = {"token": slice(0, TOKENS)} | {  # rows of a tally
    f"payload_{half}": slice(TOKENS + part * (OCTANTS + 1), TOKENS + (part + 1) * (OCTANTS + 1))
    for part, half in enumerate(("first_half", "second_half"))
}
ROWS = TOKENS + PLACES * (OCTANTS + 1)


def octant(place: jax.Array) -> jax.Array:
    """Return the octants (...,) int32 of places (..., 2) in a robot's frame, each around its direction. NONE for zero."""
    index = jnp.round(jnp.arctan2(place[..., 1], place[..., 0]) * (OCTANTS / (2 * np.pi))).astype(jnp.int32) % OCTANTS
    return jnp.where(jnp.any(place != 0, axis=-1), index, NONE)


def tally(token: jax.Array, payload: jax.Array, goal: jax.Array, active: jax.Array) -> jax.Array:
    """Count what each robot says where its goal is, (N, ROWS, OCTANTS + 1) int32.

    Rows are SYMBOLS: the token, and the octants of both halves of the payload, NONE in silence. Columns are octants of the
    observed goal. token: (N,) int32. payload: (N, 4). goal: (N, 2). Who is not `active` (N,) counts nowhere.
    """
    halves = [payload[:, 2 * part : 2 * part + 2] for part in range(PLACES)]
    told = [_one_hot(token, TOKENS)] + [
        _one_hot(jnp.where(token > 0, octant(half), NONE), OCTANTS + 1) for half in halves
    ]
    seen = _one_hot(octant(goal), OCTANTS + 1) * active[:, None].astype(jnp.int32)
    return jnp.concatenate(told, axis=1)[:, :, None] * seen[:, None]


def _one_hot(index: jax.Array, size: int) -> jax.Array:
    return (index[:, None] == np.arange(size, dtype=np.int32)[None]).astype(jnp.int32)


def entropy(counts: Any) -> float:
    """Return the entropy of a distribution given by counts of any shape, in bits."""
    share = np.asarray(counts, float).ravel()
    share = share[share > 0] / max(share.sum(), 1e-300)
    return float(-np.sum(share * np.log2(share))) + 0.0


def mutual_information(counts: Any) -> float:
    """Return the mutual information of rows and columns of a table of counts, in bits."""
    table = np.asarray(counts, float)
    return entropy(table.sum(axis=0)) + entropy(table.sum(axis=1)) - entropy(table)


def signalling(counts: np.ndarray, seed: int = 0) -> float:
    """Return the mutual information, bits, of what robots say and see, less what chance alone would give.

    That is "positive signalling" (Lowe et al. 2019, "On the pitfalls of measuring emergent communication"). counts:
    (R, S, O), of each of R robots over a whole episode. What chance would give is the mean over SHUFFLES in which each
    robot's words stand beside what another robot saw. A robot's steps stay together, because they are alike: shuffled one by
    one they would promise far less. The result may be a little below 0.
    """
    said, seen = counts.sum(axis=2).astype(float), counts.sum(axis=1).astype(float)
    some = said.sum(axis=1) > 0
    said, seen = said[some], seen[some] / seen[some].sum(axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    by_chance = [mutual_information(said.T @ seen[rng.permutation(len(seen))]) for _ in range(SHUFFLES)]
    return mutual_information(counts.sum(axis=0)) - float(np.mean(by_chance))
