import math
import operator

import jax
import numpy as np
import pytest

from entropy_env.physics.double import Double, log, lost_by_decay

pytestmark = pytest.mark.core


def as_double(numbers):
    high = numbers.astype(np.float32)
    return Double(high, (numbers - high).astype(np.float32))


def exact(number):
    return np.asarray(number.high, np.float64) + np.asarray(number.low, np.float64)


@pytest.fixture(scope="module")
def operands():
    """A thousand pairs of numbers, none so close to another that digits cancel."""
    rng = np.random.default_rng(0)
    return rng.uniform(2, 4, 1000), rng.uniform(-1, -0.5, 1000)


@pytest.mark.parametrize("of", [operator.add, operator.sub, operator.mul, operator.truediv])
def test_operators_keep_twice_the_digits_of_a_float32(of, operands):
    one, other = map(as_double, operands)
    np.testing.assert_allclose(exact(jax.jit(of)(one, other)), of(exact(one), exact(other)), rtol=1e-13)


@pytest.mark.parametrize("of", [operator.add, operator.sub, operator.mul, operator.truediv])
def test_a_plain_number_may_stand_on_the_right(of, operands):
    one, other = as_double(operands[0]), operands[1].astype(np.float32)
    np.testing.assert_allclose(exact(jax.jit(of)(one, other)), of(exact(one), other.astype(np.float64)), rtol=1e-13)
    found = jax.jit(lambda number: of(number, 3.0))(one)
    np.testing.assert_allclose(exact(found), of(exact(one), 3.0), rtol=1e-13)


@pytest.mark.parametrize("number", [1e-30, 0.01, 0.5, 0.708, 3.0])
def test_the_logarithm_keeps_nine_digits(number):
    number = np.float32(number)
    assert exact(jax.jit(log)(number)) == pytest.approx(math.log(number), rel=1e-9)


@pytest.mark.parametrize("kept", [0.001, 0.5, 0.999])
def test_what_decay_takes_is_known_better_than_to_a_float32(kept):
    kept, time = np.float32(kept), as_double(np.array(0.05 / 3))
    lost = exact(jax.jit(lost_by_decay)(kept, time))
    assert lost == pytest.approx(-math.expm1(exact(time) * math.log(kept)), rel=5e-9)
