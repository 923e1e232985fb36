"""Checkpoints: a pytree of arrays and its JSON metadata in one safetensors file.

The header of the file holds the metadata and a digest over everything, so arrays and metadata always belong together.
A file gets its name only once it is complete and on disk. Leaves are named by their path: `params/dense_0/kernel`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from entropy_env import __version__
from entropy_env.types import OLD_FIELDS
from trainers.run.files import to_json, write_atomic

FORMAT = 1
DTYPES = {"bool", "int8", "uint8", "bfloat16", "complex64"}
DTYPES |= {f"{kind}{bits}" for kind in ("int", "uint", "float") for bits in (16, 32, 64)}
TRY_AGAIN = "training goes on, the one before stays, and each later update tries again"  # e.g. if the disk is full
FILE_NAME = re.compile(r"step_(\d+)\.safetensors")


class CheckpointError(Exception):
    """A checkpoint is damaged, or does not hold the expected tree."""


def save_checkpoint(
    folder: str | os.PathLike[str],
    tree: Any,
    step: int,
    metadata: dict[str, Any] | None = None,
    *,
    keep: int = 3,
    keep_every: int | None = None,
) -> Path:
    """Write `folder/step_<step>.safetensors`, and return its path.

    Then deletes all but the newest `keep` checkpoints. Steps that are multiples of `keep_every` are never deleted.
    tree: any pytree of arrays, typed PRNG keys and Python numbers. metadata: anything JSON can hold; NaN becomes null.
    """
    if keep < 1:
        raise ValueError(f"{keep=} must be at least 1")
    step = int(step)
    arrays, key_types = _to_arrays(tree)
    info = to_json(
        {"format": FORMAT, "version": __version__, "step": step, "key_types": key_types, "metadata": metadata or {}}
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".step_*.tmp"):
        leftover.unlink()
    path = folder / f"step_{step:012d}.safetensors"
    write_atomic(path, save(arrays, {"entropy_env": info, "sha256": _digest(info, arrays)}))
    older = sorted(saved for saved in _steps(folder) if saved < step)
    for saved in older[: len(older) + 1 - keep]:
        if not keep_every or saved % keep_every:
            _steps(folder)[saved].unlink()
    return path


def load_checkpoint(
    path: str | os.PathLike[str], like: Any, *, partial: bool = False, optional: str | None = None
) -> tuple[Any, dict[str, Any]]:
    """Load a file, or the newest undamaged one in a folder. Returns the tree, and the metadata with `step` and `version`.

    like: the tree to fill, of arrays or ShapeDtypeStructs. Leaves that are NumPy arrays or Python numbers in it are so
    in the result too. With `partial` it may be a part of the saved tree: `{"params": ...}` loads `params` alone.
    optional: the top-level name of a part of which any leaf may be missing in the file; it is then taken from `like`.
    Warns of damaged files and skips them. Raises FileNotFoundError if there is no checkpoint, CheckpointError if all are
    damaged or a leaf does not fit.
    """
    path = Path(path)
    candidates = [path] if path.is_file() else [file for _, file in sorted(_steps(path).items(), reverse=True)]
    if not candidates:
        raise FileNotFoundError(f"no checkpoint in {path}")
    damage = []
    for candidate in candidates:
        try:
            arrays, metadata = load_arrays(candidate)
        except (CheckpointError, OSError) as error:
            damage.append(str(error))
            continue
        if damage:
            warnings.warn(f"{'; '.join(damage)}; falling back to {candidate}", stacklevel=2)
        return _fill(like, arrays, candidate, partial, optional), metadata
    raise CheckpointError(f"no whole checkpoint in {path}: {'; '.join(damage)}")


def load_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray | jax.Array], dict[str, Any]]:
    """Return all leaves of a checkpoint file by name, and its metadata. Raises CheckpointError if it is damaged."""
    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata()
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        info, digest = header["entropy_env"], header["sha256"]
    except OSError:
        raise
    except Exception as error:  # a damaged header can make the parser raise anything
        raise CheckpointError(f"{path} is damaged ({error})") from error
    if digest != _digest(info, arrays):
        raise CheckpointError(f"{path} is damaged (its content does not match its digest)")
    info = json.loads(info)
    if info["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {info['format']}, this version reads {FORMAT}")
    for name, key_type in info["key_types"].items():
        arrays[name] = jax.random.wrap_key_data(arrays[name], impl=key_type)
    return arrays, {**info["metadata"], "step": info["step"], "version": info["version"]}


def latest_step(folder: str | os.PathLike[str]) -> int | None:
    """Return the newest step that has a checkpoint file, or None. Opens no file."""
    return max(_steps(Path(folder)), default=None)


def _steps(folder: Path) -> dict[int, Path]:
    return {int(match[1]): path for path in folder.glob("step_*") if (match := FILE_NAME.fullmatch(path.name))}


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by their names in checkpoints. Raises ValueError if two leaves have the same name."""
    leaves: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in leaves or name == "__metadata__":
            raise ValueError(f"the leaf name {name!r} is already taken")
        leaves[name] = leaf
    return leaves


def _to_arrays(tree: Any) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the leaves by name, and the types of PRNG keys by name. Keys are saved as their raw data."""
    leaves = leaves_by_name(tree)
    key_types: dict[str, str] = {}
    for name, leaf in leaves.items():
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            key_types[name] = str(jax.random.key_impl(leaf))
            leaves[name] = jax.random.key_data(leaf)
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in jax.device_get(leaves).items()}
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise TypeError(f"leaf {name!r} cannot be saved: its dtype is {array.dtype}")
    return arrays, key_types


def _digest(info: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(info.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {describe(array)}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def describe(leaf: Any) -> str:
    """Return the dtype and the shape of a leaf: `float32[2, 3]`."""
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return f"{leaf.dtype.name}{list(leaf.shape)}"


def _fill(like: Any, arrays: dict[str, Any], path: Path, partial: bool, optional: str | None) -> Any:
    expected, arrays, filled = leaves_by_name(like), dict(arrays), []
    for name, leaf in expected.items():
        old = "/".join(OLD_FIELDS.get(part, part) for part in name.split("/"))
        if name not in arrays and old in arrays:
            arrays[name] = arrays.pop(old)
        if name not in arrays and name.split("/")[0] == optional:
            filled.append(leaf)
            continue
        if name not in arrays:
            raise CheckpointError(f"{path} has no leaf {name!r}, expected {describe(leaf)}")
        if describe(arrays[name]) != describe(leaf):
            raise CheckpointError(
                f"{path}: leaf {name!r} was saved as {describe(arrays[name])}, expected {describe(leaf)}"
            )
        filled.append(_as_kind_of(leaf, arrays[name]))
    unexpected = sorted(arrays.keys() - expected.keys())
    if unexpected and not partial:
        name = unexpected[0]
        raise CheckpointError(f"{path} has a leaf {name!r}, {describe(arrays[name])}, that was not expected")
    return jax.tree.unflatten(jax.tree.structure(like), filled)


def _as_kind_of(leaf: Any, array: Any) -> Any:
    if isinstance(leaf, np.ndarray | np.generic):
        return array
    return array.item() if isinstance(leaf, int | float | complex) else jnp.array(array)
