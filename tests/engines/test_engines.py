"""The choice of an engine, and what goes wrong around it: caches, processes, missing or broken Numba."""

import copy
import inspect
import itertools
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.commands import ROOT
from helpers.worlds import ENGINES

from entropy_env import engines, swarm_v0
from entropy_env.engines import interface, make_engine
from entropy_env.engines.jax_engine import JaxEngine
from entropy_env.engines.numba_engine import compilation, kernels, threads
from entropy_env.engines.numba_engine.engine import NumbaEngine
from entropy_env.env import Swarm
from entropy_env.types import SwarmSpec

SEED = np.array([1, 2], np.uint32)
ENV = Swarm(SwarmSpec(num_agents=3))
FIRST_STEP = """
import numpy as np
from entropy_env import swarm_v0
env = swarm_v0.parallel_env(3, engine="numba")
env.reset(seed=0)
env.step({agent: np.ones(2) for agent in env.agents})
print(env.state().sum())
"""


def make(name="numba", num_envs=2, **settings):
    return make_engine(ENV, num_envs, ENV.resolve_params(max_steps=5), name, **settings)


def from_snapshot(worlds):
    other = make("numba" if isinstance(worlds, NumbaEngine) else "jax")
    other.restore(worlds.snapshot())
    return other


def run(code, **environment):
    """What a fresh interpreter prints; its errors are those of the test."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_auto_is_numba_on_a_cpu_and_jax_on_an_accelerator(monkeypatch):
    assert type(make("auto")) is NumbaEngine
    monkeypatch.setattr(engines, "on_cpu", lambda: False)
    assert type(make("auto")) is JaxEngine
    assert type(make("numba")) is NumbaEngine


def test_both_engines_do_what_the_interface_says():
    for name in ENGINES:
        worlds = make(name)
        public = {attribute for attribute in vars(interface.Engine) if not attribute.startswith("_")}
        assert public <= set(dir(worlds))
        with pytest.raises(RuntimeError, match="no episode has begun"):
            worlds.step(np.zeros((2, 3, 2)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "cuda"}, "engine='cuda' must be one of auto, numba, jax"),
        ({"num_envs": 0}, "num_envs=0 must be a whole number from 1 to 1000000"),
        ({"num_envs": 1.0}, "num_envs=1.0 must be a whole number from 1 to 1000000"),
        ({"num_threads": 0}, "num_threads=0 must be a whole number from 1 to 4096"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_one_world_of_one_agent_steps():
    env = Swarm(SwarmSpec(num_agents=1))
    for name in ENGINES:
        worlds = make_engine(env, 1, env.resolve_params(), name)
        assert worlds.reset(SEED).shape == (1, 1, 36)
        assert np.isfinite(worlds.step(np.ones((1, 1, 2))).obs).all()


@pytest.fixture
def broken(monkeypatch):
    """Make the loading of kernels fail with an error."""

    def with_error(error):
        def fail(social=False):
            raise error

        monkeypatch.setattr(kernels, "load_kernels", fail)

    return with_error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'numba'"), "Numba is not installed"),
        (RuntimeError("LLVM says no"), r"Numba does not work here \(RuntimeError\('LLVM says no'\)\)"),
    ],
)
def test_without_a_working_numba_auto_warns_and_takes_jax(broken, error, message):
    broken(error)
    with pytest.warns(UserWarning, match=f"{message}, so the slower JAX engine steps the worlds: pip install"):
        worlds = make("auto")
    assert type(worlds) is JaxEngine
    with pytest.raises(RuntimeError, match=f"engine='numba', but {message}: pip install"):
        make("numba")


def test_a_missing_numba_is_found_out_at_construction():
    code = """
import sys
sys.modules["numba"] = None
import threading
import time
import warnings
from entropy_env import swarm_v0
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    env = swarm_v0.parallel_env(3)
print(type(env._world.engine).__name__, any("Numba is not installed" in str(w.message) for w in caught))
"""
    assert run(code).stdout.split() == ["JaxEngine", "True"]


@pytest.mark.slow
def test_a_full_disk_does_not_stop_anybody(tmp_path):
    """Files of any size fail to be written, after the folder has been made."""
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)){FIRST_STEP}"
    done = run("import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);" + code, NUMBA_CACHE_DIR=str(tmp_path))
    assert float(done.stdout) > 0
    assert not cached(tmp_path) or max(path.stat().st_size for path in tmp_path.rglob("*.nb?")) <= 4096


def test_a_user_without_a_home_costs_a_warning(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compilation.Path, "home", homeless)
    monkeypatch.setattr(compilation.config, "CACHE_DIR", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    folder, reason = compilation.cache_folder.__wrapped__()
    assert folder is None
    assert "Could not determine home directory" in reason


def test_a_disabled_compiler_is_named():
    with pytest.raises(AssertionError, match="NUMBA_DISABLE_JIT is set"):
        run(FIRST_STEP, NUMBA_DISABLE_JIT="1")


def cached(folder):
    return sorted(path.name for path in Path(folder).rglob("*.nb?"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache folder that two processes filled at the same time."""
    folder = tmp_path_factory.mktemp("cache")
    command = [sys.executable, "-c", FIRST_STEP]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder)}
    both = [subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert printed[0] == printed[1]
    return folder


@pytest.mark.slow
def test_a_later_process_compiles_nothing(cache):
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.nb?")}
    assert before
    code = (
        FIRST_STEP + "from entropy_env.engines.numba_engine import step; print(sum(step.run.stats.cache_hits.values()))"
    )
    assert run(code, NUMBA_CACHE_DIR=str(cache)).stdout.split()[-1] == "1"
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.nb?")} == before


@pytest.mark.slow
def test_a_damaged_cache_is_made_anew(cache):
    for path in cache.rglob("*.nbi"):
        path.write_bytes(b"nonsense")
    for _ in range(2):  # the first throws it away, the second fills it
        run(FIRST_STEP, NUMBA_CACHE_DIR=str(cache))
    assert b"nonsense" not in [path.read_bytes() for path in cache.rglob("*.nbi")]
    assert cached(cache)


@pytest.mark.slow
def test_a_cache_folder_that_cannot_be_written_costs_a_warning():
    done = run(FIRST_STEP, NUMBA_CACHE_DIR=os.devnull)
    assert "compiled code cannot be kept" in done.stderr
    assert "set NUMBA_CACHE_DIR to a folder that can be written" in done.stderr


def test_the_cache_folder_follows_from_the_text_of_the_engine(monkeypatch, tmp_path):
    monkeypatch.setattr(compilation.config, "CACHE_DIR", str(tmp_path))
    here, _ = compilation.cache_folder.__wrapped__()
    monkeypatch.setattr(compilation, "COMPILED", (*compilation.COMPILED, "render/scene.py"))
    assert Path(here).parent == tmp_path
    assert compilation.cache_folder.__wrapped__()[0] != here


def called(function, known):
    """A compiled function and all that it calls."""
    function = getattr(function, "py_func", function)
    if inspect.isfunction(function) and function.__module__.startswith("entropy_env") and function not in known:
        known.add(function)
        names = inspect.getclosurevars(function)
        for value in (*names.globals.values(), *names.nonlocals.values()):
            called(value, known)
    return known


def test_the_cache_folder_follows_from_every_file_with_compiled_functions(monkeypatch, tmp_path):
    read = []
    monkeypatch.setattr(compilation.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compilation.Path, "read_bytes", lambda path: read.append(path) or b"")
    compilation.cache_folder.__wrapped__()
    folder = Path(compilation.__file__).parent
    roots = {*kernels.PLAIN, *kernels.SOCIAL}
    compiled = {Path(inspect.getsourcefile(function)) for root in roots for function in called(root, set())}
    package = folder.parents[1]
    assert {
        package / "rewards.py",
        package / "physics" / "contacts.py",
        folder / "lidar.py",
        folder / "comms.py",
    } <= compiled
    assert {*compiled, package / "physics" / "force.py"} <= {*read}


def worker(queue, env):
    """In a process of its own: a few steps of an environment that was made in the parent."""
    try:
        env.reset(seed=1)
        for _ in range(3):
            transition = env.step({agent: np.ones(2) for agent in env.agents})
        queue.put(float(sum(transition[1].values())))
    except RuntimeError as error:
        queue.put(str(error))


def in_process(method, env):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=worker, args=(queue, env))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX's, that a fork may hang
        process.start()
    transition = queue.get(timeout=120)
    process.join()
    return transition


def test_a_spawned_worker_goes_on_with_an_environment():
    env = swarm_v0.parallel_env(3, engine="numba")
    env.reset(seed=0)
    expected = copy.deepcopy(env)
    expected.reset(seed=1)
    for _ in range(3):
        transition = expected.step({agent: np.ones(2) for agent in expected.agents})
    assert in_process("spawn", env) == pytest.approx(sum(transition[1].values()))


def test_a_forked_worker_is_told_why_it_cannot_use_jax():
    """Instead of waiting for ever, as JAX does in a process forked from one that had used it."""
    env = swarm_v0.parallel_env(3, engine="numba")
    env.reset(seed=0)
    assert "forked from one that had already used JAX" in in_process("fork", env)


def test_a_process_forked_before_the_first_reset_works():
    """As Gymnasium's AsyncVectorEnv forks, which makes an environment first to look at its spaces."""
    code = """
import gymnasium, numpy as np, entropy_env
if __name__ == "__main__":
    make = lambda: gymnasium.make("entropy_env/Swarm-v0")
    envs = gymnasium.vector.AsyncVectorEnv([make] * 2, context="fork")
    obs, _ = envs.reset(seed=0)
    print(obs.shape, *(part.shape for part in envs.step(np.ones((2, 2)))[:2]))
    envs.close()
"""
    assert run(code).stdout == "(2, 36) (2, 36) (2,)\n"


def test_threads_work_after_a_fork():
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    env = Swarm(SwarmSpec(num_agents=100))
    worlds = make_engine(env, 32, env.resolve_params(), "numba", num_threads=2)
    worlds.reset(SEED)
    action = np.ones((32, 100, 2), np.float32)
    worlds.step(action)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        os.write(writer, str(worlds.step(action).obs.sum()).encode())
        os._exit(0)
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0
    assert float(os.read(reader, 100)) == pytest.approx(worlds.step(action).obs.sum(), rel=1e-5)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda worlds: pickle.loads(pickle.dumps(worlds)), from_snapshot])
def test_a_copy_goes_on_by_itself(name, duplicate):
    worlds, rng = make(name), np.random.default_rng(0)
    worlds.reset(SEED)
    actions = rng.uniform(-1, 1, (12, 2, 3, 2))
    for action in actions[:3]:
        worlds.step(action)
    copied = duplicate(worlds)
    expected = [copy.deepcopy(worlds.step(action)) for action in actions[3:]]
    for action, transition in zip(actions[3:], expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, vars(copied.step(action)), vars(transition))


@pytest.mark.parametrize("name", ENGINES)
def test_a_snapshot_of_something_else_is_refused(name):
    worlds = make(name)
    with pytest.raises(RuntimeError, match="no episode has begun"):
        worlds.snapshot()
    worlds.reset(SEED)
    snapshot = worlds.snapshot()
    with pytest.raises(ValueError, match="snapshot has no 'draws'"):
        worlds.restore({key: array for key, array in snapshot.items() if key != "draws"})
    with pytest.raises(ValueError, match="snapshot has an unknown 'other'"):
        worlds.restore(snapshot | {"other": np.zeros(1)})
    with pytest.raises(ValueError, match=r"has shape .*expected"):
        make(name, num_envs=3).restore(snapshot)


def test_a_snapshot_with_a_field_that_has_been_renamed_is_read():
    worlds = make("jax")
    worlds.reset(SEED)
    snapshot = worlds.snapshot()
    older = snapshot | {"worlds/done": ~snapshot["worlds/over"], "worlds/sunk": snapshot["worlds/penetration"]}
    del older["worlds/over"], older["worlds/penetration"]
    worlds.restore(older)
    np.testing.assert_array_equal(worlds.state.over, older["worlds/done"])


@pytest.mark.parametrize("name", ENGINES)
def test_the_old_name_of_a_world_that_is_over_warns_of_the_new_one(name):
    worlds = make(name)
    worlds.reset(SEED)
    for result in (worlds.step(np.zeros((2, 3, 2))), worlds.state):
        with pytest.warns(FutureWarning, match=r"\.done is now called over"):
            assert result.done is result.over


def test_a_snapshot_with_goals_that_do_not_exist_is_refused():
    worlds = make("numba")
    worlds.reset(SEED)
    snapshot = worlds.snapshot()
    snapshot["agents"][:] = 255
    with pytest.raises(ValueError, match="goals from -1 to -1"):
        worlds.restore(snapshot)


def test_new_layouts_are_drawn_ahead_and_none_is_played_twice():
    worlds, seen = make(num_envs=4), []
    worlds.reset(SEED)
    for t in range(60):
        if t % 5 == 0:
            seen += [spawns.tobytes() for spawns in worlds.state.layout.spawns]
        worlds.step(np.zeros((4, 3, 2)))
    assert len(seen) == len(set(seen)) == 4 * 12


def test_new_params_count_from_the_next_draw():
    env = Swarm(SwarmSpec(num_agents=3), difficulty=2)
    for name in ENGINES:
        worlds = make_engine(env, 2, env.resolve_params(difficulty=1), name)
        worlds.reset(SEED)
        worlds.params = env.resolve_params(difficulty=np.array([1, 2]))
        worlds.reset(SEED)
        assert worlds.state.layout.size[:, 0].tolist() == [8.0, 9.0]


def wrong(worlds):
    """Calls that must be refused, with what they say."""
    state = worlds.state
    goal = state.goal_index.astype(np.int64)
    goal[1, 2] = 2**32  # zero, once it is an int32
    layout = state.layout
    return [
        (
            lambda: setattr(worlds, "state", state.replace(goal_index=goal)),
            r"goal_index\[1, 2\]=4294967296 must be a whole number from 0 to 0",
        ),
        (lambda: setattr(worlds, "state", state.replace(heading=state.heading[0])), r"state.heading has shape \(3,\)"),
        (
            lambda: worlds.reset_to(layout.replace(size=layout.size[:1])),
            r"layout.size has shape \(1, 2\), expected \(2, 2\)",
        ),
        (lambda: setattr(worlds, "params", ENV.resolve_params(dt=np.full(3, 0.1))), r"dt has shape \(3,\): give one"),
        (lambda: worlds.reset(SEED, np.ones((2, 1), bool)), r"which has shape \(2, 1\), expected \(2,\)"),
        (lambda: worlds.step(np.zeros((3, 2))), r"action has shape \(3, 2\), expected \(2, 3, 2\)"),
        (lambda: worlds.reset(True), "seed=True must be a whole number"),
        (lambda: worlds.reset(-1), "seed=-1 must be a whole number"),
        (lambda: worlds.reset([1, 2]), r"seed=\[1, 2\] must be a whole number"),
    ]


@pytest.mark.parametrize("name", ENGINES)
def test_what_is_wrong_is_named_and_changes_nothing(name):
    worlds = make(name)
    worlds.reset(SEED)
    before = worlds.state
    for call, message in wrong(worlds):
        with pytest.raises(ValueError, match=message):
            call()
        jax.tree.map(np.testing.assert_array_equal, worlds.state, before)
    worlds.valid[:] = False
    assert worlds.valid.all()


@pytest.mark.parametrize("name", ENGINES)
def test_without_a_seed_the_layouts_go_on(name):
    worlds, seen = make(name), []
    for seed in (SEED, None, None, SEED):
        worlds.reset(seed)
        seen.append(worlds.state.layout.spawns)
    worlds.reset(which=np.array([False, True]))
    assert np.array_equal(seen[0], seen[3])
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(seen[:3], 2))
    assert np.array_equal(worlds.state.layout.spawns[0], seen[3][0])
    assert not np.array_equal(worlds.state.layout.spawns[1], seen[3][1])


@pytest.mark.parametrize("name", ENGINES)
def test_a_world_that_is_reset_alone_never_sees_a_layout_again(name):
    env = Swarm(SwarmSpec(num_agents=3), difficulty=2)
    worlds = make_engine(env, 2, env.make_params(difficulty=1), name, autoreset=False)
    worlds.reset(SEED)
    seen = [*worlds.state.layout.spawns]
    for world in (0, 1, 1, 0, 1, 1):
        other = worlds.state.layout.spawns[1 - world]
        worlds.reset(which=np.arange(2) == world)
        assert np.array_equal(worlds.state.layout.spawns[1 - world], other)
        seen.append(worlds.state.layout.spawns[world])
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(seen, 2))
    worlds.params = env.make_params(difficulty=2)
    worlds.reset(which=np.array([True, False]))
    assert worlds.state.layout.size.tolist() == [[9, 7], [8, 6]]


def test_ctrl_c_leaves_no_thread_at_work_and_asks_for_a_reset():
    env = Swarm(SwarmSpec(num_agents=100))
    worlds = make_engine(env, 64, env.resolve_params(), "numba", num_threads=2)
    worlds.reset(SEED)
    busy = threading.Event()

    def task(slot, part):
        if slot == 0:
            assert busy.wait(60)
            raise KeyboardInterrupt
        busy.set()
        time.sleep(0.2)
        done.append(part)
        return 0

    done: list = []
    with pytest.raises(KeyboardInterrupt):
        threads.share(task, 8, 1, 2)
    assert len(done) == 1

    def interrupted(*arguments):
        raise KeyboardInterrupt

    worlds._kernels = worlds._kernels._replace(run=interrupted)
    with pytest.raises(KeyboardInterrupt):
        worlds.step(np.zeros((64, 100, 2)))
    with pytest.raises(RuntimeError, match="no episode has begun"):
        worlds.step(np.zeros((64, 100, 2)))


def test_threads_take_turns_in_one_engine():
    env = Swarm(SwarmSpec(num_agents=70))
    worlds = make_engine(env, 4, env.resolve_params(max_steps=1000), "numba", num_threads=2)
    worlds.reset(SEED)
    threads = [threading.Thread(target=lambda: [worlds.step(np.ones((4, 70, 2))) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worlds.state.step.tolist() == [200] * 4
