"""How much arithmetic and memory traffic a JAX function needs at least, and what devices can do.

XLA's own count (`compiled.cost_analysis()`) takes the body of a loop once, whatever its length, and the lidar and the
contacts are loops over bodies. So the operations are counted here in the jaxpr, loops times their length.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

# by the device's name: memory bytes/s and float32 flop/s outside the tensor cores, from the vendor's data sheets
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
    """Of one call."""

    operations: int  # float, integer and logic; a sine counts as one
    bytes: int  # inputs and outputs, and what each loop carries from one pass to the next


def cost(function: Callable[..., Any], *arguments: Any) -> Cost:
    """Least work of a call. Of a branch the cheapest side counts, of a loop of unknown length one pass, of all that one
    pass computes between its inputs and its outputs no byte."""
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    operations, carried = _count(jaxpr)
    return Cost(operations, carried + _size(jaxpr.invars) + _size(jaxpr.outvars))


def device_limits(kind: str) -> tuple[float, float] | None:
    """Bytes/s and float32 flop/s of a device by its name, None where it is not known."""
    return next((limits for name, limits in LIMITS.items() if re.search(rf"\b{name}\b", kind)), None)


def _count(jaxpr: Jaxpr) -> tuple[int, int]:
    """Operations, and bytes that loops carry."""
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
    """The jaxprs that an equation holds."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, Jaxpr):
                yield each


def _length(variable: Any) -> int:
    """Elements."""
    return math.prod(variable.aval.shape)


def _size(variables: Any) -> int:
    """Bytes."""
    return sum(_length(v) * getattr(v.aval.dtype, "itemsize", 8) for v in variables)
