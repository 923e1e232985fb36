"""Many worlds at once, spread over several devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from entropy_env.checks import BATCH, as_count
from entropy_env.env import Info, Swarm
from entropy_env.types import SwarmParams
from entropy_env.vector import VectorState, VectorSwarm


@dataclasses.dataclass(frozen=True)
class SpreadSwarm:
    """`VectorSwarm.reset` and `step` with the worlds spread evenly over several devices, which work in parallel.

    devices: for example tuple(jax.devices()). On a CPU XLA steps a batch on little more than one core. To use all cores,
    make each a device before any other use of JAX: jax.config.update("jax_num_cpu_devices", os.cpu_count()).
    """

    env: Swarm
    num_envs: int
    devices: tuple[jax.Device, ...]
    autoreset: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_envs", as_count("num_envs", self.num_envs, BATCH["num_envs"]))
        if self.num_envs % len(self.devices):
            raise ValueError(f"num_envs={self.num_envs!r} must be a multiple of the {len(self.devices)} devices")

    @property
    def part(self) -> VectorSwarm:
        """The batch of one device."""
        return VectorSwarm(self.env, self.num_envs // len(self.devices), autoreset=self.autoreset)

    def reset(self, key: jax.Array, params: SwarmParams) -> tuple[jax.Array, VectorState]:
        """See `VectorSwarm.reset`."""

        def reset(key: jax.Array, params: SwarmParams) -> tuple[jax.Array, VectorState]:
            return self.part.reset(self._own(key), params)

        some = jax.tree.map(lambda value: value[: self.part.num_envs] if jnp.ndim(value) else value, params)
        state = jax.eval_shape(self.part.reset, key, some)[1]
        return self._spread(reset, (P(), self._specs(params)), (self._worlds, self._specs(state)))(key, params)

    def step(
        self, key: jax.Array, state: VectorState, action: jax.Array, params: SwarmParams
    ) -> tuple[jax.Array, VectorState, jax.Array, jax.Array, jax.Array, Info]:
        """See `VectorSwarm.step`."""

        def step(key: jax.Array, state: VectorState, action: jax.Array, params: SwarmParams) -> tuple:
            return self.part.step(self._own(key), state, action, params)

        worlds, specs = self._worlds, self._specs(state)
        given = P(), specs, worlds, self._specs(params)
        return self._spread(step, given, (worlds, specs, worlds, worlds, worlds, worlds))(key, state, action, params)

    @property
    def _worlds(self) -> P:
        return P("worlds")

    def _specs(self, tree: Any) -> Any:
        """Split arrays over the devices by their first axis, worlds. Give scalars to every device."""
        return jax.tree.map(lambda leaf: self._worlds if jnp.ndim(leaf) else P(), tree)

    def _own(self, key: jax.Array) -> jax.Array:
        return jax.random.fold_in(key, jax.lax.axis_index("worlds"))

    def _spread(self, function: Callable, given: Any, returned: Any) -> Callable:
        kind = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((len(self.devices),), ("worlds",), kind, devices=self.devices)
        return jax.shard_map(function, mesh=mesh, in_specs=given, out_specs=returned, check_vma=False)
