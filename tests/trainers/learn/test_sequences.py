"""Sequences, and the memory before each, against loops over steps."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from trainers.learn.sequences import Cuts

WORLDS, STEPS = 2, 12
INPUTS = np.arange(WORLDS * STEPS, dtype=np.float32).reshape(WORLDS, STEPS, 1)


def remember(memory: Any, seen: Any, weight: float) -> Any:
    return 0.5 * memory + weight * seen


def stored(every: int) -> np.ndarray:
    """What a rollout keeps, (WORLDS, STEPS / every, 1), with a weight of 1."""
    kept, memory = [], np.full((WORLDS, 1), 3.0, np.float32)
    for t in range(STEPS):
        if t % every == 0:
            kept.append(memory)
        memory = remember(memory, INPUTS[:, t], 1.0)
    return np.stack(kept, axis=1)


@pytest.mark.parametrize(("length", "burn_in"), [(12, 0), (4, 0), (1, 0), (6, 4), (4, 4), (4, 1), (3, 2)])
def test_a_memory_is_the_stored_one_brought_up_to_date_through_the_burn_in(length: int, burn_in: int) -> None:
    cuts, weight = Cuts(length, burn_in), 2.0  # the weight has changed since the rollout

    def renew(steps: Any, memory: Any) -> Any:
        assert steps.shape == (burn_in, memory.shape[0], 1)
        for seen in steps:
            memory = remember(memory, seen, weight)
        return memory

    before, kept = stored(1), stored(cuts.every)
    expected = []
    for world in range(WORLDS):
        for start in range(0, STEPS, length):
            memory = before[world, start]
            if start and burn_in:
                memory = before[world, start - burn_in]
                for t in range(start - burn_in, start):
                    memory = remember(memory, INPUTS[world, t], weight)
            expected.append(memory)
    found = cuts.memory_before(
        (jnp.asarray(kept),), jnp.asarray(INPUTS), lambda steps, memory: (renew(steps, *memory),)
    )
    np.testing.assert_allclose(found[0], np.stack(expected), rtol=1e-6)


def test_sequences_of_a_world_follow_one_another() -> None:
    cut = Cuts(4).cut(INPUTS)
    assert cut.shape == (4, WORLDS * 3, 1)
    for index in range(WORLDS * 3):
        world, start = divmod(4 * index, STEPS)
        np.testing.assert_array_equal(cut[:, index], INPUTS[world, start : start + 4])
