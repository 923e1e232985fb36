"""What JAX's flags change: nothing. Each needs a process of its own, so these tests start some.

The core tests run under them by hand, too: JAX_ENABLE_X64=1 python -m pytest -m core -n 0
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.worlds import ENGINES

from entropy_env.engines import make_engine
from entropy_env.env import Swarm
from entropy_env.scenarios import SCENARIOS
from entropy_env.types import SwarmSpec
from entropy_env.vector import batch
from trainers import jax_ppo
from trainers.evaluate import evaluate
from trainers.run.checkpoint import load_arrays

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parent
WIDE = {"JAX_ENABLE_X64": "1"}
STRICT = {
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_DEBUG_NANS": "1",
}
LEAKS = {"JAX_CHECK_TRACER_LEAKS": "1"}  # caches nothing, so that the core tests would take ten times as long
QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # to compile: nothing here runs for long
QUICK_CORE = "test_geometry.py", "test_lidar.py", "test_env.py"
WORLDS, AGENTS, STEPS = 3, 4, 50


def run(command, flags):
    environment = (
        {name: value for name, value in os.environ.items() if name not in WIDE | STRICT | LEAKS} | QUICK | flags
    )
    ran = subprocess.run([sys.executable, *command], cwd=TESTS, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-6000:]


@pytest.mark.parametrize("flags", [WIDE, STRICT], ids=["x64", "strict"])
def test_the_core_passes_under(flags):
    run(["-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-m", "core", *QUICK_CORE], flags)


def walk():
    """Everything of one world, traced and run once with either drive, where the first two robots coincide."""
    for drive in ("kinematic", "force"):
        env = Swarm(SwarmSpec(num_agents=3, num_rays=4, drive=drive, on_goal="respawn"), "obstacles")
        params, action = env.make_params(), np.ones((3, 2), np.float32)
        _, state = jax.jit(env.reset)(jax.random.key(0), params)
        state = state.replace(
            position=state.position.at[1].set(state.position[0]), active=state.active.at[2].set(False)
        )
        _, state, *_ = jax.jit(env.step)(jax.random.key(0), state, action, params)
        jax.block_until_ready(jax.jit(env.respawn)(state, params))


def test_a_world_neither_leaks_a_tracer_nor_makes_a_nan_nor_promotes():
    run(["-c", "from test_flags import *; walk()"], STRICT | LEAKS)


def kinds(name, tree):
    """The dtype of every leaf by its path, all that JAX_ENABLE_X64 could change."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        f"{name}{jax.tree_util.keystr(path)}": np.dtype(leaf.dtype).name
        for path, leaf in leaves
        if leaf.dtype.kind != "V"
    }


def record(folder):
    """Everything that two processes with other flags can be compared by: what is drawn, what results, of which dtype."""
    arrays, dtypes = {}, {}
    key = jax.random.key(7)
    for name in SCENARIOS:
        on_goal = "respawn" if "respawn" in SCENARIOS[name].endings else "terminate"
        env = Swarm(SwarmSpec(num_agents=AGENTS, on_goal=on_goal), name, difficulty=2)
        layout = jax.jit(env.generate)(key, env.make_params())
        arrays |= {
            f"{name}{jax.tree_util.keystr(path)}": x for path, x in jax.tree_util.tree_flatten_with_path(layout)[0]
        }
    for drive, search in (("kinematic", "dense"), ("force", "grid")):
        spec = SwarmSpec(num_agents=AGENTS, drive=drive, neighbour_search=search, on_goal="respawn")
        env = Swarm(spec, "obstacles", difficulty=2)
        params, wide = env.make_params(), np.zeros((WORLDS, AGENTS, 2))
        worlds = batch(env, WORLDS, stagger=True)
        reset = jax.eval_shape(worlds.reset, key, params)
        step = jax.eval_shape(worlds.step, key, reset[1], wide, params)
        alone = jax.eval_shape(env.step, key, jax.eval_shape(env.reset, key, params)[1], wide[0], params)
        dtypes |= kinds(f"{drive} reset", reset) | kinds(f"{drive} step", step) | kinds(f"{drive} alone", alone)
    for scenario, drive in (("rooms", "kinematic"), ("open", "force")):
        env = Swarm(SwarmSpec(num_agents=AGENTS, drive=drive, on_goal="respawn"), scenario)
        for kind in ENGINES:
            engine = make_engine(env, WORLDS, env.make_params(max_steps=30), kind)
            actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, WORLDS, AGENTS, 2))
            transition = {f"reset {scenario} {kind}": engine.reset(3).copy()}
            # a user's own float64 must not widen the worlds
            engine.state = jax.tree.map(lambda x: x.astype(float) if x.dtype.kind == "f" else x, engine.state)
            for t, action in enumerate(actions):
                transition |= {
                    f"{t} {name} {scenario} {kind}": np.array(x) for name, x in vars(engine.step(action)).items()
                }
            state = jax.tree_util.tree_flatten_with_path(engine.state)[0]
            arrays |= transition | {f"state {scenario} {kind} {jax.tree_util.keystr(path)}": x for path, x in state}
    np.savez(folder / "arrays.npz", **arrays)
    (folder / "dtypes.json").write_text(json.dumps(dtypes))


def train(run_dir, updates, resume=False):
    sizes = {"num_envs": 4, "num_agents": 2, "num_steps": 4, "num_minibatches": 2, "hidden_sizes": (8,)}
    steps = {"total_steps": 32 * updates, "checkpoint_interval": 32, "anneal_learning_rate": False}
    jax_ppo.train(jax_ppo.PPOConfig(run_dir=run_dir, resume=resume, **sizes, **steps))


def finish(run_dir):
    train(run_dir, 2, resume=True)
    figures = evaluate(run_dir, 2)
    (run_dir / "figures.json").write_text(json.dumps(figures["success"]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of a process without the flag and of one with it: a recording, and a run begun there and finished by the other."""
    plain, wide = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("wide")
    begin = "from test_flags import *; folder = Path({!r}); record(folder); train(folder / 'run', 1); train(folder / 'whole', 2)"
    end = "from test_flags import *; finish(Path({!r}) / 'run')"
    run(["-c", begin.format(str(plain))], {})
    run(["-c", f"{begin.format(str(wide))}; {end.format(str(plain))}"], WIDE)
    run(["-c", end.format(str(wide))], {})
    return plain, wide


def test_worlds_are_the_same_with_and_without_64_bits(folders):
    plain, wide = (dict(np.load(folder / "arrays.npz")) for folder in folders)
    assert plain.keys() == wide.keys()
    for name, array in plain.items():
        assert array.dtype == wide[name].dtype, name
        np.testing.assert_allclose(wide[name], array, rtol=0, atol=1e-4, err_msg=name)


def test_dtypes_are_the_same_with_and_without_64_bits(folders):
    plain, wide = (json.loads((folder / "dtypes.json").read_text()) for folder in folders)
    assert plain == wide
    assert {name for name, dtype in plain.items() if dtype.endswith("64")} == set()


def test_a_run_is_the_same_with_and_without_64_bits_and_goes_on_in_the_other(folders):
    def weights(folder, name, update):
        arrays, _ = load_arrays(folder / name / "checkpoints" / f"step_{32 * update:012d}.safetensors")
        return {name: array for name, array in arrays.items() if name.startswith(("params", "moments", "opt_state"))}

    plain, wide = folders
    runs = [(plain, "whole"), (wide, "whole"), (plain, "run"), (wide, "run")]
    for update in (0, 2):
        first, *others = (weights(*of, update) for of in runs)
        for other in others:
            assert {name: x.dtype for name, x in first.items()} == {name: x.dtype for name, x in other.items()}
            jax.tree.map(np.testing.assert_array_equal, other, first)
    assert all((folder / "run" / "figures.json").exists() for folder in folders)
