"""Several devices and processes: options, setting up, an update on all of them, and how many worlds fit.

Processes run the same program. The first one does `fit` and alone writes files; the others `follow` it, update by update.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from trainers.run.checkpoint import load_checkpoint
from trainers.run.compilation import cache_compilations
from trainers.run.terminal import say

END, GO, STATE, INPUTS = 0, 1, 2, 4  # what the first process tells the others before an update, added up
FREE = 0.8  # share of the free memory that `--auto-batch` may use


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
    """Where to train."""

    DEVICES: ClassVar[frozenset[str]] = frozenset({"devices", "distributed"})  # may be others when a run is resumed

    devices: int | None = None
    """Devices of this machine to share the worlds; by default one CPU, or all GPUs."""
    distributed: bool = False
    """Train in several processes, started alike. Where each finds the others is in JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID, or comes from SLURM."""

    def __post_init__(self) -> None:
        if self.devices is not None and self.devices < 1:
            raise ValueError(f"devices={self.devices} must be above 0")


def prepare_jax(options: Any) -> None:
    """Do what must come before the first computation: flags, other processes, and the persistent compilation cache."""
    if options.deterministic:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
    if options.distributed and not jax.distributed.is_initialized():
        named = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
        given: dict[str, Any] = {
            name: int(os.environ[variable]) for name, variable in named.items() if variable in os.environ
        }
        try:
            jax.distributed.initialize(**given)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"distributed: the processes did not find each other ({error})") from error
        tell(GO)  # connects them now, since that may take only half a minute
    cache_compilations()


def make_mesh(devices: int | None) -> Mesh | None:
    """Return the devices to train on, those of all processes, or None for a single one.

    devices: the number on this machine, None for one CPU or all GPUs. Raises ValueError if there are fewer.
    """
    local = jax.local_devices()
    wanted = devices or (1 if local[0].platform == "cpu" else len(local))
    if wanted > len(local):
        flag = ", which XLA_FLAGS=--xla_force_host_platform_device_count=N makes" if local[0].platform == "cpu" else ""
        raise ValueError(
            f"devices={wanted} are more than the {len(local)} of this machine, {local[0].device_kind}{flag}"
        )
    of_process = [[d for d in jax.devices() if d.process_index == index] for index in range(jax.process_count())]
    chosen = [device for devices_of_one in of_process for device in devices_of_one[:wanted]]
    if len(chosen) == 1:
        return None
    return jax.make_mesh((len(chosen),), ("devices",), axis_types=(AxisType.Auto,), devices=chosen)


class SpreadUpdate:
    """The compiled update of a learner on a mesh. With several processes, the first one calls it and the others follow.

    It takes a state from anywhere. It returns the one on the mesh, or with several processes this one's copy of it.
    """

    def __init__(self, learner: Any, state: Any, inputs: Any) -> None:
        """Compile. state, inputs: arrays or ShapeDtypeStructs."""
        self._alone = jax.process_count() == 1
        states = learner.specs(state) if self._alone else jax.tree.map(lambda _: P(), state)
        specs = states, jax.tree.map(lambda _: P(), inputs)
        self._shardings = jax.tree.map(
            lambda spec: NamedSharding(learner.mesh, spec), specs, is_leaf=lambda x: isinstance(x, P)
        )
        self._shapes = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            (state, inputs),
            self._shardings,
        )
        self._compiled = type(learner).update.lower(learner, *self._shapes).compile()
        self._given: tuple[Any, Any] = None, None  # the state that was returned last, and the inputs before
        self._spread: tuple[Any, Any] = None, None  # both as all processes have them

    def __call__(self, state: Any, inputs: Any) -> tuple[Any, Any]:
        """Do one update on all devices of all processes."""
        if self._alone:
            return self._compiled(*map(jax.device_put, (state, inputs), self._shardings))
        fresh = (not _same(*pair) for pair in zip((state, inputs), self._given, strict=True))
        order = GO + sum(what for what, new in zip((STATE, INPUTS), fresh, strict=True) if new)
        tell(order)
        return self._together(order, (state, inputs))

    def follow(self) -> None:
        """Do the updates of the first process, until it ends."""
        while order := tell():
            self._together(order, self._shapes)

    def _together(self, order: int, given: tuple[Any, Any]) -> tuple[Any, Any]:
        """Update with the state and inputs of the first process. The others give their shapes."""
        fresh = order & STATE, order & INPUTS
        state, inputs = (
            everywhere(own, sharding) if new else before
            for new, own, sharding, before in zip(fresh, given, self._shardings, self._spread, strict=True)
        )
        state, metrics = self._compiled(state, inputs)
        here, metrics = jax.tree.map(lambda x: x.addressable_data(0), (state, metrics))
        self._spread, self._given = (state, inputs), (here, given[1])
        return here, metrics


def tell(order: int = END) -> int:
    """Tell all processes what the first one says. Returns it."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(order)))


def everywhere(tree: Any, shardings: Any) -> Any:
    """Return a tree of the first process on the devices of all. The others give its shapes."""
    sent = multihost_utils.broadcast_one_to_all(jax.tree.map(_raw, tree))

    def spread(like, data, sharding):
        array = jax.make_array_from_callback(data.shape, sharding, lambda index: data[index])
        return jax.random.wrap_key_data(array) if _is_key(like) else array

    return jax.tree.map(spread, tree, sent, shardings)


def _same(tree: Any, other: Any) -> bool:
    """Whether two trees have the very same arrays."""
    leaves, others = jax.tree.leaves(tree), jax.tree.leaves(other)
    return len(leaves) == len(others) and all(leaf is before for leaf, before in zip(leaves, others, strict=True))


def _raw(x: Any) -> np.ndarray:
    """Return an array as plain numbers, or zeros for a ShapeDtypeStruct."""
    if isinstance(x, jax.ShapeDtypeStruct):
        x = jax.eval_shape(jax.random.key_data, x) if _is_key(x) else x
        return np.zeros(x.shape, x.dtype)
    return np.asarray(jax.random.key_data(x) if _is_key(x) else x)


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(jax.numpy.result_type(x), jax.dtypes.prng_key)


def follow(learner: Any, inputs: Any, seed: int) -> None:
    """Do the updates of the first process's `fit`. Writes nothing."""
    with jax.enable_x64(False):
        state = jax.eval_shape(learner.init, jax.random.key(seed), inputs)
        SpreadUpdate(learner, state, jax.tree.map(jax.numpy.asarray, inputs)).follow()


def load_leaves(learner: Any, folder: Path, like: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Do as `load_checkpoint` for the leaves of a run by name, of which those of `inputs` may be missing.

    If the run was saved on another number of devices, its worlds begin anew, with a note.
    """
    now = _count(learner)
    before = load_checkpoint(folder, {}, partial=True)[1].get("devices", 1)
    with warnings.catch_warnings(action="ignore"):  # the first load has already warned
        if before == now:
            return load_checkpoint(folder, like, optional="inputs")
        say(f"This run was saved on {before} devices and goes on on {now}: its worlds begin anew")
        fresh = {name: leaf for name, leaf in like.items() if name.split("/")[0] in learner.WORLDS}
        kept = {name: leaf for name, leaf in like.items() if name not in fresh}
        tree, about = load_checkpoint(folder, kept, partial=True, optional="inputs")
    return tree | fresh, about


def about_devices(learner: Any) -> dict[str, int]:
    """Return what checkpoints say of the devices, nothing for a single one."""
    return {"devices": _count(learner)} if _count(learner) > 1 else {}


def _count(learner: Any) -> int:
    mesh = getattr(learner, "mesh", None)
    return 1 if mesh is None else mesh.size


def largest_batch(memory_of: Callable[[int], int], limit: int, unit: int, most: int) -> int:
    """Return the largest multiple of `unit`, up to `most`, whose memory is within the limit.

    memory_of: returns the bytes that a batch needs; it grows about linearly, and each call is slow. Raises ValueError if
    not even `unit` fits.
    """
    most = max(unit, most // unit * unit)
    fits, needed = unit, memory_of(unit)
    if needed > limit:
        raise ValueError(
            f"auto_batch: {unit} worlds need {needed / 2**30:.1f} GiB, and {limit / 2**30:.1f} GiB are free"
        )
    count, too_many = min(8 * unit, most), most + unit
    while fits < count < too_many:
        used = memory_of(count)
        if used <= limit:
            growth = max((used - needed) / (count - fits), 1)
            fits, needed = count, used
        else:
            too_many, growth = count, max((used - needed) / (count - fits), 1)
        count = min(fits + int((limit - needed) / growth) // unit * unit, too_many - unit, most)
    return fits


def update_memory(learner: Any, inputs: Any, seed: int = 0) -> int:
    """Return the bytes that an update needs on each device. Compiles it, and computes nothing."""
    state = jax.eval_shape(learner.init, jax.random.key(seed), inputs)
    analysis = type(learner).update.lower(learner, state, inputs).compile().memory_analysis()
    whole = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return whole + analysis.temp_size_in_bytes


def free_memory() -> int:
    """Return the bytes that an update may use on each device here: a share of what is free."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(FREE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():  # counts the caches, which can be given up
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = 1024 * int(fields["MemAvailable"].split()[0])
    return int(FREE * free)
