"""Numbers as pairs of float32, the nearest and what it is off by, which together hold some 48 bits (Dekker 1971).

Plain float32 would lose 1e-4 m in 200 steps of the force drive, whose robots spin at tens of radians a second. Nothing
here may be reordered, which XLA does not do to floats.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

SPLITTER = 4097.0  # 2^12 + 1
LN2 = 0.69314718, -1.9046542e-9  # as float32 reads it, and the rest

Number = jax.Array | float
Pair = tuple[Number, Number]


def two_sum(a: Number, b: Number) -> Pair:
    """a + b, exactly (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _split(a: Number) -> Pair:
    """Halves of 12 bits, whose products are exact."""
    scaled = SPLITTER * a
    high = scaled - (scaled - a)
    return high, a - high


def two_product(a: Number, b: Number) -> Pair:
    """a * b, exactly."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def add(a: Pair, b: Pair) -> Pair:
    """a + b."""
    total, rest = two_sum(a[0], b[0])
    return two_sum(total, rest + (a[1] + b[1]))


def multiply(a: Pair, b: Pair) -> Pair:
    """a * b."""
    product, rest = two_product(a[0], b[0])
    return two_sum(product, rest + (a[0] * b[1] + a[1] * b[0]))


def divide(a: Pair, b: Pair) -> Pair:
    """a / b."""
    quotient = a[0] / b[0]
    product = multiply((quotient, 0.0), b)
    return two_sum(quotient, ((a[0] - product[0]) + (a[1] - product[1])) / b[0])


def negative(a: Pair) -> Pair:
    """-a."""
    return -a[0], -a[1]


def log(a: jax.Array) -> Pair:
    """The natural logarithm of a number () above 0, not subnormal: 2 atanh((m - 1) / (m + 1)) + e ln 2, a = m 2^e."""
    mantissa, exponent = jnp.frexp(a)
    small = mantissa < 0.70710677
    mantissa, exponent = jnp.where(small, 2 * mantissa, mantissa), exponent - small.astype(exponent.dtype)
    ratio = divide(two_sum(mantissa, -1.0), two_sum(mantissa, 1.0))
    square = multiply(ratio, ratio)
    series: Pair = (0.0, 0.0)
    for k in range(17, 0, -2):
        series = add(multiply(series, square), divide((1.0, 0.0), (float(k), 0.0)))
    twice = multiply(ratio, series)
    return add(multiply(LN2, (exponent.astype(jnp.float32), 0.0)), (2 * twice[0], 2 * twice[1]))


def lost_by_decay(kept: jax.Array, time: Pair) -> Pair:
    """1 - kept ** time. kept: () in (0, 1), not subnormal. time: () above 0, best well below 1."""
    z = multiply(negative(log(kept)), time)
    x = z[0]
    series = x * x * (1 / 2 - x * (1 / 6 - x * (1 / 24 - x * (1 / 120 - x * (1 / 720 - x / 5040)))))
    bend = jnp.where(x < 0.5, series, x + jnp.expm1(-x))  # z - (1 - exp(-z)), small beside z
    return two_sum(z[0], z[1] - bend)
