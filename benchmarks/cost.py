"""Count the least arithmetic and memory traffic of a JAX function, and compare it with the limits of devices.

XLA's own count (`compiled.cost_analysis()`) counts the body of a loop only once, and the lidar and the contacts are loops
over bodies. So operations are counted here in the jaxpr, those of a loop times its length.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

# Name of the device to memory bytes/s and float32 flop/s outside the tensor cores, from the vendor's data sheets.
LIMITS = {
    "H100 80GB HBM3": (3.35e12, 67e12),
    "H200": (4.8e12, 67e12),
    "A100-SXM4-80GB": (2.0e12, 19.5e12),
    "L4": (0.3e12, 30.3e12),
    "RTX 4090": (1.008e12, 82.6e12),
}
ELEMENTWISE = """
abs add add_any and atan2 ceil clamp cos div eq exp exp2 floor ge gt integer_pow is_finite le log log1p logistic lt max min
mul ne neg not or pow rem round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sqrt square
sub tan tanh xor
"""
REDUCTIONS = "argmax argmin cumsum reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum"


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one call."""

    operations: int  # float, integer and logic operations; a sine counts as one
    bytes: int  # of inputs and outputs, and of what each loop carries from one pass to the next


def cost(function: Callable[..., Any], *arguments: Any) -> Cost:
    """Return the least cost of a call.

    Only the cheapest side of a branch counts, and one pass of a loop of unknown length. Values between the inputs and
    the outputs of a pass count no bytes.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    operations, carried = _count(jaxpr)
    return Cost(operations, carried + _size(jaxpr.invars) + _size(jaxpr.outvars))


def device_limits(kind: str) -> tuple[float, float] | None:
    """Return the bytes/s and float32 flop/s of a device by its name, or None if it is unknown."""
    return next((limits for name, limits in LIMITS.items() if re.search(rf"\b{name}\b", kind)), None)


def _count(jaxpr: Jaxpr) -> tuple[int, int]:
    """Return the number of operations, and the bytes that loops carry."""
    operations = carried = 0
    for equation in jaxpr.eqns:
        name, inner = equation.primitive.name, [_count(each) for each in _inner(equation.params)]
        if name in ELEMENTWISE.split():
            operations += _length(equation.outvars[0])
        elif name in REDUCTIONS.split():
            operations += _length(equation.invars[0])
        elif name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inputs: Any = equation.invars[0].aval
            depth = math.prod(inputs.shape[axis] for axis in contracted)
            operations += 2 * depth * _length(equation.outvars[0])
        elif name == "scan":
            length, ((passed, deeper),) = equation.params["length"], inner
            operations += length * passed
            carried += length * (deeper + 2 * _size(equation.outvars[: equation.params["num_carry"]]))
        elif name == "cond":
            cheapest = min(inner)
            operations, carried = operations + cheapest[0], carried + cheapest[1]
        else:
            operations += sum(each[0] for each in inner)
            carried += sum(each[1] for each in inner)
    return operations, carried


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """Yield the jaxprs inside an equation."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, Jaxpr):
                yield each


def _length(variable: Any) -> int:
    """Return the number of elements."""
    return math.prod(variable.aval.shape)


def _size(variables: Any) -> int:
    """Return the number of bytes."""
    return sum(_length(v) * getattr(v.aval.dtype, "itemsize", 8) for v in variables)
