"""Cells against loops in NumPy, and against flax."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from trainers.networks.recurrent import GRU, LSTM

STEPS, LANES, WIDTH, UNITS = 7, 4, 3, 5
KEYS = jax.random.split(jax.random.key(0), 4)
X = jax.random.normal(KEYS[0], (STEPS, LANES, WIDTH), jnp.float32)
GOES_ON = jax.random.uniform(KEYS[1], (STEPS, LANES)) < 0.7
START = jax.random.normal(KEYS[2], (LANES, UNITS), jnp.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def weights(cell: nn.Module, memory: Any) -> tuple[Any, dict[str, Any]]:
    params = cell.init(KEYS[3], X[0], memory)
    params = jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape), params)
    return params, jax.tree.map(lambda x: np.asarray(x, np.float64), params)["params"]


def test_a_sequence_of_a_gru_is_a_loop_over_its_steps() -> None:
    cell = GRU(UNITS)
    params, own = weights(cell, START)
    found, last = cell.apply(params, X, START, GOES_ON)
    memory = np.asarray(START, np.float64)
    for t in range(STEPS):
        inputs = np.asarray(X[t], np.float64) @ own["input"]["kernel"] + own["input"]["bias"]
        gates = [(inputs[:, i : i + UNITS], (memory @ own["recurrent"])[:, i : i + UNITS]) for i in (0, 5, 10)]
        reset, update = sigmoid(sum(gates[0])), sigmoid(sum(gates[1]))
        new = np.tanh(gates[2][0] + reset * (gates[2][1] + own["bias"]))
        memory = (1 - update) * new + update * memory
        np.testing.assert_allclose(found[t], memory, atol=1e-6)
        memory = memory * np.asarray(GOES_ON)[t][:, None]
    np.testing.assert_allclose(last, memory, atol=1e-6)


def test_a_gru_is_the_one_of_flax() -> None:
    cell = GRU(UNITS)
    params, own = weights(cell, START)
    kernels, recurrent = np.split(own["input"]["kernel"], 3, axis=1), np.split(own["recurrent"], 3, axis=1)
    biases = np.split(own["input"]["bias"], 3)
    theirs: dict[str, Any] = {f"i{gate}": {"kernel": kernels[i], "bias": biases[i]} for i, gate in enumerate("rzn")} | {
        f"h{gate}": {"kernel": recurrent[i]} for i, gate in enumerate("rzn")
    }
    theirs["hn"]["bias"] = own["bias"]
    expected, _ = nn.GRUCell(UNITS).apply({"params": jax.tree.map(jnp.float32, theirs)}, START, X[0])
    np.testing.assert_allclose(cell.apply(params, X[0], START)[0], expected, atol=1e-6)


def test_a_sequence_of_an_lstm_is_a_loop_over_its_steps() -> None:
    cell_before = 0.5 * START[::-1]
    lstm = LSTM(UNITS)
    params, own = weights(lstm, (cell_before, START))
    found, last = lstm.apply(params, X, (cell_before, START), GOES_ON)
    cell, output = np.asarray(cell_before, np.float64), np.asarray(START, np.float64)
    for t in range(STEPS):
        inputs = np.asarray(X[t], np.float64) @ own["input"]["kernel"] + own["input"]["bias"]
        enter, forget, new, leave = np.split(inputs + output @ own["recurrent"], 4, axis=1)
        cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(new)
        output = sigmoid(leave) * np.tanh(cell)
        np.testing.assert_allclose(found[t], output, atol=1e-6)
        cell, output = (x * np.asarray(GOES_ON)[t][:, None] for x in (cell, output))
    np.testing.assert_allclose(last[0], cell, atol=1e-6)
    np.testing.assert_allclose(last[1], output, atol=1e-6)


def test_gradients_of_a_sequence_are_those_of_its_steps() -> None:
    for kind, memory in ((GRU, START), (LSTM, (START, START[::-1]))):
        cell = kind(UNITS)
        params, _ = weights(cell, memory)

        def whole(params: Any, x: Any, memory: Any, cell: Any = cell) -> jax.Array:
            outputs, last = cell.apply(params, x, memory, GOES_ON)
            return jnp.sum(jnp.sin(outputs)) + sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(last))

        def steps(params: Any, x: Any, memory: Any, cell: Any = cell) -> jax.Array:
            total = 0.0
            for t in range(STEPS):
                output, memory = cell.apply(params, x[t], memory)
                memory = jax.tree.map(lambda leaf: jnp.where(GOES_ON[t][:, None], leaf, 0.0), memory)  # noqa: B023
                total += jnp.sum(jnp.sin(output))
            return total + sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(memory))

        found, expected = (jax.jit(jax.grad(f, (0, 1, 2)))(params, X, memory) for f in (whole, steps))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
