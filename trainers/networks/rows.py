"""Apply layers to rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax


def on_rows(layer: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Map x (..., in) to (..., out) with a layer that sees rows (R, in).

    The gradient of a matrix product of rows is one, too. With more axes XLA transposes what it multiplies first, which
    takes time.
    """
    rows = layer(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))
    return rows.reshape(*x.shape[:-1], rows.shape[-1])
