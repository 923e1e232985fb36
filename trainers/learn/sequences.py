"""Cut the steps of worlds into sequences, for networks that remember."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Cuts:
    """Sequences of `length` steps, whose memory at the start is brought up to date through the `burn_in` steps before."""

    length: int
    burn_in: int = 0

    @property
    def every(self) -> int:
        """The steps between two memories that a rollout keeps: those before sequences and before their burn-in."""
        return math.gcd(self.length, self.burn_in)

    def cut(self, tree: Any) -> Any:
        """Cut arrays (W, T, ...) into sequences (length, S, ...), S = W * T / length: those of a world are in a row."""
        return jax.tree.map(lambda x: x.reshape(-1, self.length, *x.shape[2:]).swapaxes(0, 1), tree)

    def memory_before(self, stored: Any, steps: Any, renew: Callable[[Any, Any], Any]) -> Any:
        """Return the memory before each sequence, (S, ...): as it is stored, or with burn-in as the current weights have it.

        A world's first sequence has no burn-in, because the steps before are not kept (compare Kapturowski et al. 2019).
        stored: the memories of a rollout, (W, T / every, ...). steps: (W, T, ...). renew: maps steps (burn_in, ...) and
        the memory before them to that after.
        """
        at_start = jax.tree.map(lambda x: x[:, :: self.length // self.every], stored)
        if self.burn_in and jax.tree.leaves(stored):
            first = (self.length - self.burn_in) // self.every
            earlier = jax.tree.map(lambda x: x[:, first :: self.length // self.every][:, :-1], stored)
            fresh = renew(jax.tree.map(self._last, steps), _join(earlier))
            at_start = jax.tree.map(
                lambda old, new, like: jnp.concatenate([old[:, :1], new.reshape(like.shape)], axis=1),
                at_start, fresh, earlier,
            )  # fmt: skip
        return _join(at_start)

    def _last(self, x: jax.Array) -> jax.Array:
        """Return the last steps of each sequence that another follows, (burn_in, ...)."""
        sequences = x.reshape(len(x), -1, self.length, *x.shape[2:])[:, :-1, self.length - self.burn_in :]
        return sequences.reshape(-1, *sequences.shape[2:]).swapaxes(0, 1)


def _join(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
