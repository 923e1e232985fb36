"""Layouts of several scenarios in one program."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from entropy_env.scenarios.base import Scenario
from entropy_env.types import Layout, SwarmParams, SwarmSpec, narrow


@dataclasses.dataclass(frozen=True)
class Stages(Scenario):
    """Draws each layout as one of several stages does. `params.difficulty` is the number of the stage, from 1.

    It may be another in every world, and change without a recompile. There may be more than four stages. Families that
    occur in several stages are compiled once.
    """

    stages: tuple[Scenario, ...] = ()  # each draws at its own difficulty
    name = "stages"

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages=() must have at least one stage")
        object.__setattr__(self, "stages", tuple(self.stages))
        object.__setattr__(self, "difficulty", len(self.stages))

    @property
    def families(self) -> tuple[Scenario, ...]:
        """The different families, each sized for its highest difficulty in any stage."""
        largest: dict[Scenario, Scenario] = {}
        for stage in self.stages:
            kind = dataclasses.replace(stage, difficulty=1)
            if kind not in largest or stage.difficulty > largest[kind].difficulty:
                largest[kind] = stage
        return tuple(largest.values())

    @property
    def max_steps(self) -> tuple[int, ...]:  # type: ignore[override]
        """The time limit of each stage, in control periods."""
        return tuple(stage.max_steps[stage.difficulty - 1] for stage in self.stages)

    def slots(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for family in self.families:
            sizes |= {name: max(needed, sizes.get(name, 0)) for name, needed in family.slots().items()}
        return sizes

    def capacity(self, level: int, params: SwarmParams) -> int:
        stage = self.stages[level - 1]
        return stage.capacity(stage.difficulty, params)

    def generate(self, key: jax.Array, spec: SwarmSpec, params: SwarmParams) -> Layout:
        families = self.families
        kinds = [dataclasses.replace(family, difficulty=1) for family in families]
        which = [kinds.index(dataclasses.replace(stage, difficulty=1)) for stage in self.stages]
        stage = jnp.clip(params.difficulty - 1, 0, len(self.stages) - 1)
        level = jnp.asarray([stage.difficulty for stage in self.stages], jnp.int32)[stage]
        branches = [partial(_draw, family, spec) for family in families]
        layout = jax.lax.switch(jnp.asarray(which, jnp.int32)[stage], branches, key, params.replace(difficulty=level))
        return layout.replace(valid=layout.valid & self.sized_for(params))


def _draw(family: Scenario, spec: SwarmSpec, key: jax.Array, params: SwarmParams) -> Layout:
    return narrow(family.generate(key, spec, params))
