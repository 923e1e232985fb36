"""Checkpoints come back bit for bit, and no crash or damage costs more than the newest one."""

import os
import random
import subprocess
import sys
import time
import warnings
from collections import namedtuple
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.run.checkpoint import CheckpointError, latest_step, load_arrays, load_checkpoint, save_checkpoint
from trainers.run.files import to_json, write_atomic

Pair = namedtuple("Pair", "left right")
SMALL = {"weights": np.arange(4, dtype=np.float32), "count": np.int32(7)}


def assert_same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for leaf, copy in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert (leaf.dtype, leaf.shape) == (copy.dtype, copy.shape)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf, copy = jax.random.key_data(leaf), jax.random.key_data(copy)
        assert np.asarray(leaf).tobytes() == np.asarray(copy).tobytes()


@st.composite
def arrays(draw):
    dtype = np.dtype(draw(st.sampled_from(["bool", "int32", "uint32", "uint8", "float16", "float32", jnp.bfloat16])))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    if dtype == bool:
        return np.asarray(draw(st.integers(0, 2**27 - 1)) >> np.arange(np.prod(shape, dtype=int)) & 1, bool).reshape(
            shape
        )
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype).reshape(shape)


def branches(children):
    names = st.text("abc_01 é.", min_size=1, max_size=3)
    return (
        st.dictionaries(names, children, max_size=3)
        | st.lists(children, max_size=3)
        | st.tuples(children, children)
        | st.builds(Pair, children, children)
    )


@settings(max_examples=100, deadline=None)
@given(tree=st.recursive(arrays() | st.none(), branches, max_leaves=8))
def test_any_tree_comes_back_bit_for_bit(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    save_checkpoint(folder, tree, 1)
    assert_same(load_checkpoint(folder, tree)[0], tree)


def training_state(seed):
    params = {"dense": {"kernel": jax.random.normal(jax.random.key(seed), (3, 4)), "bias": jnp.zeros(4, jnp.bfloat16)}}
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    key = jax.random.key(seed + 1)
    return {
        "params": params,
        "optimiser": optimiser.init(params),
        "key": key,
        "worlds": jax.random.split(key, 3),
        "raw_key": jax.random.PRNGKey(seed),
        "other_generator": jax.random.key(seed, impl="rbg"),
        "active": jnp.array([True, False]),
    }


def test_a_training_state_with_its_keys_comes_back_into_its_shapes_alone(tmp_path):
    state = training_state(0)
    save_checkpoint(tmp_path, state, 5, {"scenario": "rooms", "best": float("nan")})
    loaded, metadata = load_checkpoint(tmp_path, jax.eval_shape(lambda: training_state(1)))
    assert_same(loaded, state)
    assert metadata.items() >= {"scenario": "rooms", "best": None, "step": 5}.items()
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
    assert jax.random.uniform(loaded["key"]) == jax.random.uniform(state["key"])


def test_numpy_arrays_and_python_numbers_stay_what_they_are(tmp_path):
    tree = {"array": np.zeros(2, np.int64), "steps": 3, "rate": 0.1, "flag": True}
    save_checkpoint(tmp_path, tree, 1)
    loaded, _ = load_checkpoint(tmp_path, {"array": np.ones(2, np.int64), "steps": 0, "rate": 0.0, "flag": False})
    assert {name: type(leaf) for name, leaf in loaded.items()} == {name: type(leaf) for name, leaf in tree.items()}
    assert (loaded["steps"], loaded["rate"], loaded["flag"]) == (3, 0.1, True)


def test_loaded_arrays_share_no_memory_with_each_other_or_the_file(tmp_path):
    path = save_checkpoint(tmp_path, SMALL, 1)
    loaded, _ = load_checkpoint(path, SMALL)
    loaded["weights"][:] = -1
    assert_same(load_checkpoint(path, SMALL)[0], SMALL)


def test_a_field_that_has_been_renamed_is_found_by_its_old_name(tmp_path):
    save_checkpoint(tmp_path, {"worlds": {"sunk": np.arange(3, dtype=np.float32)}, "count": np.int32(7)}, step=1)
    like = {"worlds": {"penetration": np.zeros(3, np.float32)}, "count": np.int32(0)}
    tree, _ = load_checkpoint(tmp_path, like)
    assert tree["worlds"]["penetration"].tolist() == [0, 1, 2]
    part, _ = load_checkpoint(tmp_path, {"worlds": like["worlds"]}, partial=True)
    assert part["worlds"]["penetration"].tolist() == [0, 1, 2]


def test_a_part_can_be_loaded_without_the_rest_of_the_state(tmp_path):
    Runner = namedtuple("Runner", "params normaliser optimiser")
    save_checkpoint(tmp_path, Runner({"kernel": jnp.ones(3)}, jnp.zeros(2), (jnp.ones(3), jnp.ones(3))), 1)
    part, _ = load_checkpoint(tmp_path, {"params": {"kernel": jnp.zeros(3)}}, partial=True)
    assert_same(part, {"params": {"kernel": jnp.ones(3)}})
    arrays, _ = load_arrays(tmp_path / "step_000000000001.safetensors")
    assert set(arrays) == {"params/kernel", "normaliser", "optimiser/0", "optimiser/1"}


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"weights": np.zeros(5, np.float32), "count": np.int32(0)}, r"'weights' was saved as float32\[4\], .*float32\[5\]"),
        ({"weights": np.zeros(4, np.float16), "count": np.int32(0)}, r"'weights' was saved as float32\[4\], .*float16\[4\]"),
        ({"weights": jax.random.split(jax.random.key(0), 4), "count": np.int32(0)}, r"'weights' .* key<fry>\[4\]"),
        (SMALL | {"bias": np.zeros(2)}, r"no leaf 'bias', expected float64\[2\]"),
        ({"weights": SMALL["weights"]}, r"'count', int32\[\], that was not expected"),
    ],
)  # fmt: skip
def test_a_leaf_that_does_not_fit_is_named_with_both_shapes(tmp_path, like, message):
    save_checkpoint(tmp_path, SMALL, 1)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path, like)


def test_leaves_that_cannot_be_told_apart_or_saved_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'a/b' is already taken"):
        save_checkpoint(tmp_path, {"a": {"b": np.zeros(1)}, "a/b": np.ones(1)}, 1)
    with pytest.raises(ValueError, match="'__metadata__' is already taken"):
        save_checkpoint(tmp_path, {"__metadata__": np.zeros(1)}, 1)
    with pytest.raises(TypeError, match="'name' cannot be saved"):
        save_checkpoint(tmp_path, {"name": "rooms"}, 1)
    assert latest_step(tmp_path) is None


def two_checkpoints(folder):
    newer = {"weights": -SMALL["weights"], "count": np.int32(8)}
    return save_checkpoint(folder, SMALL, 1), save_checkpoint(folder, newer, 2, {"return": 1.25})


def assert_falls_back(folder, older, newest):
    with pytest.warns(UserWarning) as warned:
        loaded, metadata = load_checkpoint(folder, SMALL)
    assert metadata["step"] == 1
    assert_same(loaded, SMALL)
    assert str(newest) in str(warned[0].message)
    assert str(older) in str(warned[0].message)


def test_a_file_cut_anywhere_falls_back_to_the_one_before(tmp_path):
    older, newest = two_checkpoints(tmp_path)
    whole = newest.read_bytes()
    for length in range(len(whole)):
        newest.write_bytes(whole[:length])
        assert_falls_back(tmp_path, older, newest)


def test_a_flipped_bit_anywhere_falls_back_to_the_one_before(tmp_path):
    older, newest = two_checkpoints(tmp_path)
    whole = newest.read_bytes()
    generator = random.Random(0)
    for index in range(len(whole)):
        damaged = bytearray(whole)
        damaged[index] ^= 1 << generator.randrange(8)
        newest.write_bytes(damaged)
        assert_falls_back(tmp_path, older, newest)


def test_without_a_whole_checkpoint_every_damaged_one_is_named(tmp_path):
    for path in two_checkpoints(tmp_path):
        path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"(?s)step_000000000002.*step_000000000001"):
        load_checkpoint(tmp_path, SMALL)


def test_without_any_checkpoint_the_folder_is_named(tmp_path):
    assert latest_step(tmp_path / "none") is None
    with pytest.raises(FileNotFoundError, match="none"):
        load_checkpoint(tmp_path / "none", SMALL)


def test_a_damaged_file_that_was_asked_for_by_name_has_no_stand_in(tmp_path):
    _, newest = two_checkpoints(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(newest, SMALL)


def test_a_file_of_another_format_is_not_misread(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("trainers.run.checkpoint.FORMAT", 2)
        save_checkpoint(tmp_path, SMALL, jnp.int32(1))
    with pytest.raises(CheckpointError, match="format 2, this version reads 1"):
        load_checkpoint(tmp_path, SMALL)


def steps(folder):
    return sorted(int(path.stem.removeprefix("step_")) for path in folder.glob("step_*"))


def test_the_newest_are_kept_and_chosen_steps_never_deleted(tmp_path):
    for step in range(0, 100, 10):
        save_checkpoint(tmp_path, SMALL, step, keep=2, keep_every=40)
    assert steps(tmp_path) == [0, 40, 80, 90]
    assert latest_step(tmp_path) == 90


def test_saving_after_a_fallback_never_deletes_the_only_whole_checkpoint(tmp_path):
    two_checkpoints(tmp_path)[1].write_bytes(b"")
    save_checkpoint(tmp_path, SMALL, 1, keep=1)
    with pytest.warns(UserWarning, match="falling back"):
        assert load_checkpoint(tmp_path, SMALL)[1]["step"] == 1


def test_leftovers_of_a_crash_are_ignored_and_then_removed(tmp_path):
    save_checkpoint(tmp_path, SMALL, 1)
    leftover = tmp_path / ".step_000000000002.safetensors.123.tmp"
    leftover.write_bytes(b"half")
    assert load_checkpoint(tmp_path, SMALL)[1]["step"] == 1
    save_checkpoint(tmp_path, SMALL, 3)
    assert not leftover.exists()


def test_files_with_other_names_are_no_checkpoints(tmp_path):
    other = tmp_path / "step_000000000002.safetensors.backup"
    other.touch()
    assert latest_step(tmp_path) is None
    save_checkpoint(tmp_path, SMALL, 3, keep=1)
    assert other.exists()


def test_a_file_is_on_disk_before_it_gets_its_name_and_that_before_older_ones_go(tmp_path, monkeypatch):
    events = []
    fsync, replace, unlink = os.fsync, os.replace, Path.unlink
    monkeypatch.setattr(
        os, "fsync", lambda fd: (events.append("sync " + os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("rename"), replace(*names)))
    monkeypatch.setattr(Path, "unlink", lambda path, **how: (events.append("delete"), unlink(path, **how)))
    save_checkpoint(tmp_path, SMALL, 1)
    events.clear()
    save_checkpoint(tmp_path, SMALL, 2, keep=1)
    assert events[0].endswith(".tmp")
    assert events[1:] == ["rename", f"sync {tmp_path}", "delete"]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, moment):
    path = write_atomic(tmp_path / "config.yaml", "old")
    monkeypatch.setattr(os, moment, lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


SAVE_FOREVER = """
import itertools, sys
import numpy as np
from trainers.run.checkpoint import save_checkpoint
for step in itertools.count():
    save_checkpoint(sys.argv[1], {"value": np.full(100_000, step)}, step, keep=2)
"""


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.031])
def test_kill_9_while_saving_leaves_a_checkpoint_that_loads_without_a_warning(tmp_path, delay):
    with subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, tmp_path], cwd=Path(__file__).parents[3]) as process:
        while latest_step(tmp_path) is None and process.poll() is None:
            time.sleep(0.005)
        time.sleep(delay)
        process.kill()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree, metadata = load_checkpoint(tmp_path, {"value": np.zeros(100_000, int)})
    assert (tree["value"] == metadata["step"]).all()


def test_json_is_standard_whatever_the_numbers_are():
    value = {
        "nan": np.float32("nan"),
        "inf": [float("-inf")],
        "one": np.float64(1),
        "n": jnp.int32(2),
        "path": Path("a"),
    }
    assert to_json(value) == '{"nan": null, "inf": [null], "one": 1.0, "n": 2, "path": "a"}'
