"""Cells that remember: one step, or whole sequences at once.

What is remembered goes on from a step to the next only where the sequence says so, and is zero elsewhere.

Sequences are fast: only what depends on the step before is computed step by step. The product with the inputs is one matrix
product over the sequence, that with the memory one product a step for all gates. Backwards, the gates are computed again
for all steps at once, a step multiplies with what they pass on, and the gradients of the weights are one product at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from trainers.networks.rows import on_rows

Memory = Any  # a pytree of arrays (..., units), () for a network without memory
Pair = tuple[jax.Array, jax.Array]


class GRU(nn.Module):
    """A gated recurrent unit (Cho et al. 2014) in the form whose reset gate acts after the recurrent product.

    That is flax's `GRUCell`, torch's and ONNX's with `linear_before_reset=1`. Gates are in the order reset, update, new.
    Memory: the output before, (..., size).
    """

    size: int
    dtype: Any = None  # of the matrix products

    @staticmethod
    def begin(shape: tuple[int, ...]) -> jax.Array:
        """Return a memory of this shape at the beginning."""
        return jnp.zeros(shape, jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array, memory: jax.Array, goes_on: jax.Array | None = None) -> Pair:
        """Map x (..., in) and memory to the output (..., size) and the new memory.

        With goes_on (T, ...) bool, do T steps: x is (T, ..., in), the outputs (T, ..., size), and memory is kept after a
        step where it is set, and zero elsewhere.
        """
        inputs = on_rows(nn.Dense(3 * self.size, dtype=self.dtype, name="input"), x).astype(jnp.float32)
        kernel = self.param("recurrent", _orthogonal_gates(3), (self.size, 3 * self.size), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.size,), jnp.float32)
        if goes_on is not None:
            return gru_sequence(self.dtype, inputs, kernel, bias, memory, goes_on)
        memory = _gru_step(self.dtype, inputs, kernel, bias, memory)
        return memory, memory


class LSTM(nn.Module):
    """A long short-term memory (Hochreiter & Schmidhuber 1997; Gers et al. 2000).

    Gates are in the order input, forget, cell, output. The forget gate begins with a bias of 1 (Jozefowicz et al. 2015).
    Memory: cell and output, (..., size) each.
    """

    size: int
    dtype: Any = None  # of the matrix products

    @staticmethod
    def begin(shape: tuple[int, ...]) -> Pair:
        """Return a memory of this shape at the beginning."""
        return jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array, memory: Pair, goes_on: jax.Array | None = None) -> tuple[jax.Array, Pair]:
        """See `GRU`."""
        dense = nn.Dense(4 * self.size, dtype=self.dtype, bias_init=_remembering, name="input")
        inputs = on_rows(dense, x).astype(jnp.float32)
        kernel = self.param("recurrent", _orthogonal_gates(4), (self.size, 4 * self.size), jnp.float32)
        if goes_on is not None:
            return lstm_sequence(self.dtype, inputs, kernel, memory, goes_on)
        memory = _lstm_step(self.dtype, inputs, kernel, memory)
        return memory[1], memory


CELLS: dict[str, type[Any]] = {"gru": GRU, "lstm": LSTM}


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def gru_sequence(
    dtype: Any, inputs: jax.Array, kernel: jax.Array, bias: jax.Array, memory: jax.Array, goes_on: jax.Array
) -> Pair:
    """Return the outputs (T, ..., H) and the memory after a sequence. inputs: (T, ..., 3 H). goes_on: see `GRU`."""

    def advance(memory: jax.Array, at: Pair) -> Pair:
        output = _gru_step(dtype, at[0], kernel, bias, memory)
        return _kept(at[1], output), output

    memory, outputs = jax.lax.scan(advance, memory, (inputs, goes_on))
    return outputs, memory


def _gru_step(dtype: Any, inputs: jax.Array, kernel: jax.Array, bias: jax.Array, memory: jax.Array) -> jax.Array:
    _, update, new, _ = _gru_gates(inputs, _product(dtype, memory, kernel), bias)
    return new + update * (memory - new)


def _gru_gates(inputs: jax.Array, recurrent: jax.Array, bias: jax.Array) -> tuple[jax.Array, ...]:
    """Return reset, update, new, and what reset scales in new."""
    two = 2 * bias.shape[0]
    both = jax.lax.optimization_barrier(
        nn.sigmoid(inputs[..., :two] + recurrent[..., :two])
    )  # one loop with tanh is not vectorised
    reset, update = jnp.split(both, 2, axis=-1)
    scaled = recurrent[..., two:] + bias
    return reset, update, jnp.tanh(inputs[..., two:] + reset * scaled), scaled


def _gru_forwards(
    dtype: Any, inputs: jax.Array, kernel: jax.Array, bias: jax.Array, memory: jax.Array, goes_on: jax.Array
) -> tuple[Pair, tuple]:
    outputs, last = gru_sequence(dtype, inputs, kernel, bias, memory, goes_on)
    return (outputs, last), (inputs, kernel, bias, memory, goes_on, outputs)


def _gru_backwards(dtype: Any, saved: tuple, gradients: Pair) -> tuple:
    inputs, kernel, bias, memory, goes_on, outputs = saved
    before = _shifted(memory, goes_on, outputs)
    reset, update, new, scaled = _gru_gates(inputs, _product(dtype, before, kernel), bias)
    to_new = (1 - update) * (1 - new * new)  # what each gate passes on of a change of the output
    to_update = (before - new) * update * (1 - update)
    to_reset = to_new * scaled * reset * (1 - reset)
    passed = to_reset, to_update, to_new * reset

    def retreat(later: jax.Array, at: tuple[Any, ...]) -> Pair:
        gradient, passed, update, goes_on = at
        gradient = gradient + _kept(goes_on, later)
        return gradient * update + _product(dtype, _gatewise(gradient, passed), kernel.T), gradient

    first, through = jax.lax.scan(retreat, gradients[1], (gradients[0], passed, update, goes_on), reverse=True)
    of_bias = jnp.sum(through * passed[2], axis=tuple(range(through.ndim - 1)))
    of_inputs = _gatewise(through, (to_reset, to_update, to_new))
    return of_inputs, _weights(dtype, before, _gatewise(through, passed)), of_bias, first, None


gru_sequence.defvjp(_gru_forwards, _gru_backwards)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def lstm_sequence(
    dtype: Any, inputs: jax.Array, kernel: jax.Array, memory: Pair, goes_on: jax.Array
) -> tuple[jax.Array, Pair]:
    """Return the outputs (T, ..., H) and the memory after a sequence. inputs: (T, ..., 4 H). goes_on: see `GRU`."""
    return _lstm_forwards(dtype, inputs, kernel, memory, goes_on)[0]


def _lstm_step(dtype: Any, inputs: jax.Array, kernel: jax.Array, memory: Pair) -> Pair:
    cell, output = memory
    enter, forget, new, leave = _lstm_gates(inputs + _product(dtype, output, kernel))
    cell = forget * cell + enter * new
    return cell, leave * jnp.tanh(cell)


def _lstm_gates(sums: jax.Array) -> tuple[jax.Array, ...]:
    """Return enter, forget, new and leave."""
    enter, forget, new, leave = jnp.split(sums, 4, axis=-1)
    return nn.sigmoid(enter), nn.sigmoid(forget), jnp.tanh(new), nn.sigmoid(leave)


def _lstm_forwards(
    dtype: Any, inputs: jax.Array, kernel: jax.Array, memory: Pair, goes_on: jax.Array
) -> tuple[tuple[jax.Array, Pair], tuple]:
    def advance(memory: Pair, at: Pair) -> tuple[Pair, Pair]:
        memory = _lstm_step(dtype, at[0], kernel, memory)
        return _kept(at[1], memory), memory

    last, (cells, outputs) = jax.lax.scan(advance, memory, (inputs, goes_on))
    return (outputs, last), (inputs, kernel, memory, goes_on, cells, outputs)


def _lstm_backwards(dtype: Any, saved: tuple, gradients: tuple[jax.Array, Pair]) -> tuple:
    inputs, kernel, memory, goes_on, cells, outputs = saved
    cell_before, before = _shifted(memory, goes_on, (cells, outputs))
    enter, forget, new, leave = _lstm_gates(inputs + _product(dtype, before, kernel))
    squashed = jnp.tanh(cells)
    to_enter, to_forget = new * enter * (1 - enter), cell_before * forget * (1 - forget)
    from_cell = to_enter, to_forget, enter * (1 - new * new)
    to_leave, to_cell = squashed * leave * (1 - leave), leave * (1 - squashed * squashed)

    def gates(of_cell: jax.Array, of_output: jax.Array, from_cell: tuple, to_leave: jax.Array) -> jax.Array:
        return jnp.concatenate([_gatewise(of_cell, from_cell), of_output * to_leave], axis=-1)

    def retreat(later: Pair, at: tuple[Any, ...]) -> tuple[Pair, Pair]:
        gradient, from_cell, to_leave, to_cell, forget, goes_on = at
        of_cell, of_output = _kept(goes_on, later)
        of_output = gradient + of_output
        of_cell = of_cell + of_output * to_cell
        sums = gates(of_cell, of_output, from_cell, to_leave)
        return (of_cell * forget, _product(dtype, sums, kernel.T)), (of_cell, of_output)

    steps = gradients[0], from_cell, to_leave, to_cell, forget, goes_on
    first, through = jax.lax.scan(retreat, gradients[1], steps, reverse=True)
    of_inputs = gates(*through, from_cell, to_leave)
    return of_inputs, _weights(dtype, before, of_inputs), first, None


lstm_sequence.defvjp(_lstm_forwards, _lstm_backwards)


def _kept(goes_on: jax.Array, memory: Memory) -> Memory:
    """Return the memory where it goes on, (...,) bool, and zeros elsewhere."""
    return jax.tree.map(lambda x: jnp.where(goes_on[..., None], x, 0.0), memory)


def _shifted(memory: Memory, goes_on: jax.Array, after: Memory) -> Memory:
    """Return the memory before each step, (T, ..., H), from that before the first and those after each."""
    kept = _kept(goes_on[:-1], jax.tree.map(lambda x: x[:-1], after))
    return jax.tree.map(lambda first, later: jnp.concatenate([first[None], later]), memory, kept)


def _gatewise(x: jax.Array, factors: tuple[jax.Array, ...]) -> jax.Array:
    """Multiply x (..., H) with the factor (..., H) of each gate. Returns (..., gates * H)."""
    return jnp.concatenate([x * factor for factor in factors], axis=-1)


def _product(dtype: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel if dtype is None else (x.astype(dtype) @ kernel.astype(dtype)).astype(jnp.float32)


def _weights(dtype: Any, before: jax.Array, gates: jax.Array) -> jax.Array:
    """Return the gradient of the recurrent kernel, (H, gates)."""
    return _product(dtype, before.reshape(-1, before.shape[-1]).T, gates.reshape(-1, gates.shape[-1]))


def _orthogonal_gates(count: int) -> Callable[..., jax.Array]:
    """Return an initialiser of kernels (size, count * size) that are orthogonal for each gate."""

    def init(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
        one, square = nn.initializers.orthogonal(), (shape[0], shape[0])
        return jnp.concatenate([one(key, square, dtype) for key in jax.random.split(key, count)], axis=1)

    return init


def _remembering(key: jax.Array, shape: tuple[int], dtype: Any) -> jax.Array:
    """Return the biases of an LSTM's gates: 1 for the forget gate, 0 for the others."""
    return jnp.repeat(jnp.array([0, 1, 0, 0], dtype), shape[0] // 4)
