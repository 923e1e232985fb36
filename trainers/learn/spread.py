"""Share the worlds of a learner among devices. Each device steps its own worlds and learns from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

State = TypeVar("State")


@dataclasses.dataclass(frozen=True)
class Spread:
    """How the state of a learner lies on its devices.

    With several, what belongs to worlds has a leading axis of devices, and all else is whole on each.
    """

    mesh: Mesh | None  # of the devices, with one axis; None for one device
    num_envs: int  # worlds on all devices
    worlds: tuple[str, ...]  # the fields of the state that belong to worlds

    @property
    def axis(self) -> str | None:
        """The name of the axis of the devices, None for one device."""
        return None if self.mesh is None else self.mesh.axis_names[0]

    @property
    def num_devices(self) -> int:
        """The number of devices."""
        return 1 if self.mesh is None else self.mesh.size

    def begin(self, reset: Callable[[jax.Array, Any], State], key: jax.Array, env_params: Any) -> State:
        """Begin the worlds of all devices. reset: begins those of one, from a key and their parameters."""
        if self.mesh is None:
            return reset(key, env_params)
        keys = jax.random.split(key, self.num_devices)
        per_world = jax.tree.map(self.is_per_world, env_params)
        params = jax.tree.map(
            lambda x, own: x.reshape(len(keys), -1, *x.shape[1:]) if own else x, env_params, per_world
        )
        return jax.vmap(reset, (0, jax.tree.map(lambda own: 0 if own else None, per_world)))(keys, params)

    def is_per_world(self, param: jax.Array) -> bool:
        """Whether a parameter has a value for each world, rather than one for all."""
        return jnp.ndim(param) > 0 and len(param) == self.num_envs

    def specs(self, state: Any) -> Any:
        """Return how a state is spread over the devices."""
        whole = jax.tree.map(lambda _: P(), state)
        own = {name: jax.tree.map(lambda _: P(self.axis), getattr(state, name)) for name in self.worlds}
        return whole.replace(**own)

    def update(self, share: Callable[[State, Any], tuple[State, Any]], state: State, inputs: Any) -> tuple[State, Any]:
        """Update a state on all devices. share: does that of one device, and returns metrics that are the same on all."""
        if self.mesh is None:
            return share(state, inputs)

        def update_one_of_many(state: Any, inputs: Any) -> tuple[Any, Any]:
            state, metrics = share(self._change(state, lambda x: x[0]), inputs)
            return self._change(state, lambda x: x[None]), metrics

        states = self.specs(state)
        spread = jax.tree.map(lambda x: P(self.axis) if self.is_per_world(x) else P(), inputs)
        on_all = jax.shard_map(
            update_one_of_many,
            mesh=self.mesh,
            in_specs=(states, spread),
            out_specs=(states, P()),
            check_vma=False,  # the gradient of a sum over devices is then the sum of gradients: take their mean
        )
        state, metrics = on_all(state, inputs)
        if jax.process_count() > 1:  # so that the first process can save the worlds of all
            state = jax.lax.with_sharding_constraint(state, NamedSharding(self.mesh, P()))
        return state, metrics

    def _change(self, state: Any, change: Callable[[jax.Array], jax.Array]) -> Any:
        """Change what of a state belongs to worlds."""
        return state.replace(**{name: jax.tree.map(change, getattr(state, name)) for name in self.worlds})
