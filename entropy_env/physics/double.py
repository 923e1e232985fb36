"""Numbers as the sum of two float32, the nearest one and the rest, which together hold some 48 bits (Dekker 1971).

Plain float32 would lose 1e-4 m in 200 steps of the force drive, whose robots spin at tens of radians a second. The
order of operations matters everywhere here; XLA does not reorder floats.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

Number = jax.Array | float
SPLITTER = 4097.0  # 2^12 + 1


class Double(struct.PyTreeNode):
    """`high` + `low`: the float32 nearest to a number, and the rest.

    The right operand may be a plain number.
    """

    high: Number
    low: Number = 0.0

    def __neg__(self) -> Double:
        return Double(-self.high, -self.low)

    def __add__(self, other: Double | Number) -> Double:
        other = _as_double(other)
        total = two_sum(self.high, other.high)
        return two_sum(total.high, total.low + (self.low + other.low))

    def __sub__(self, other: Double | Number) -> Double:
        return self + -_as_double(other)

    def __mul__(self, other: Double | Number) -> Double:
        other = _as_double(other)
        product = two_product(self.high, other.high)
        return two_sum(product.high, product.low + (self.high * other.low + self.low * other.high))

    def __truediv__(self, other: Double | Number) -> Double:
        other = _as_double(other)
        quotient = self.high / other.high
        product = Double(quotient) * other
        return two_sum(quotient, ((self.high - product.high) + (self.low - product.low)) / other.high)


def _as_double(number: Double | Number) -> Double:
    return number if isinstance(number, Double) else Double(number)


def two_sum(a: Number, b: Number) -> Double:
    """a + b, exactly (Knuth)."""
    total = a + b
    part = total - a
    return Double(total, (a - (total - part)) + (b - part))


def _split(a: Number) -> tuple[Number, Number]:
    """Split a number into halves of 12 bits, whose products are exact."""
    scaled = SPLITTER * a
    high = scaled - (scaled - a)
    return high, a - high


def two_product(a: Number, b: Number) -> Double:
    """a * b, exactly."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    return Double(product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low)


LN2 = Double(0.69314718, -1.9046542e-9)  # the nearest float32, and the rest


def log(a: jax.Array) -> Double:
    """Natural logarithm of a number () above 0 that is not subnormal.

    With a = m 2^e it is 2 atanh((m - 1) / (m + 1)) + e ln 2, and the first term is a power series. Known limit: its
    coefficients 1 / k are plain float32, so nine digits are right.
    """
    mantissa, exponent = jnp.frexp(a)
    small = mantissa < 0.70710677
    mantissa, exponent = jnp.where(small, 2 * mantissa, mantissa), exponent - small.astype(exponent.dtype)
    ratio = two_sum(mantissa, -1.0) / two_sum(mantissa, 1.0)
    square = ratio * ratio
    series = Double(0.0)
    for k in range(17, 0, -2):
        series = series * square + Double(1.0) / float(k)
    twice = ratio * series
    return LN2 * exponent.astype(jnp.float32) + Double(2 * twice.high, 2 * twice.low)


def lost_by_decay(kept: jax.Array, time: Double) -> Double:
    """1 - kept ** time. kept: () in (0, 1), not subnormal. time: () above 0, best well below 1."""
    z = -log(kept) * time
    x = z.high
    series = x * x * (1 / 2 - x * (1 / 6 - x * (1 / 24 - x * (1 / 120 - x * (1 / 720 - x / 5040)))))
    bend = jnp.where(x < 0.5, series, x + jnp.expm1(-x))  # z - (1 - exp(-z)), small beside z
    return two_sum(z.high, z.low - bend)
