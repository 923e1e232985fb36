import contextlib
import gc
import os
import signal
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # workers and child processes inherit it, so each compiles less
    COMPILED = tempfile.TemporaryDirectory(prefix="entropy_env_tests_")  # removed as the process that made it ends
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax
import pytest
from helpers.compilation import quick_compilation
from hypothesis import settings

TESTS = Path(__file__).parent
USERS = {  # rooms and files whose tests hold the code that users run; conformance holds each step in JAX to Numba's
    "physics", "test_conformance.py", "test_crowds.py", "test_flags.py", "test_invariants.py",
}  # fmt: skip
# One worker compiles the Numba kernels, for half a minute. The other begins with what needs none, and then reads them.
FIRST = ["engines/test_conformance.py", "physics/test_dynamics.py", "test_vector.py", "test_neighbours.py"]
SHORT = {
    "learn", "policies", "render", "run", "test_adapters.py", "test_geometry.py", "test_imports.py", "test_pettingzoo.py",
}  # fmt: skip
MOST_MAPS = 20_000  # after which compiled functions are thrown away

settings.register_profile("quick", deadline=None, max_examples=5, derandomize=True, database=None)
settings.register_profile("thorough", deadline=None, max_examples=100)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a suite in the background, where tests press Ctrl-C too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.option.loadscopereorder = False  # which puts modules of few tests last, however long they take
    config.addinivalue_line("markers", "slow: takes long, and is run by `make test-all` alone")
    config.addinivalue_line("markers", "optimised: compiles as users do, in a module that compiles quickly")
    config.addinivalue_line("markers", "core: runs under strict dtype promotion and without implicit rank promotion")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: turn_of(item.path.relative_to(TESTS)))


def pytest_collection_finish():
    """Search for garbage more seldom, and not among what is imported: tracing makes many objects that stay."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Compile quickly where no test is about users' code, fixtures of all scopes included, and keep the two apart."""
    with quick_compilation() if is_quick(item) else contextlib.nullcontext():
        result = yield
    if nextitem is not None and is_quick(item) and not is_quick(nextitem):
        jax.clear_caches()
    return result


def is_quick(item):
    """Whether a test may be compiled with few optimisations."""
    return not USERS & set(item.path.relative_to(TESTS).parts) and item.get_closest_marker("optimised") is None


def turn_of(path):
    """When workers take a module: what users' code is compiled for, then others, and last what is short.

    So compiled functions are thrown away once, and workers end together.
    """
    if path.as_posix() in FIRST:
        return FIRST.index(path.as_posix())
    names = set(path.parts)
    return len(FIRST) + (2 if names & SHORT else not names & USERS)


@pytest.fixture(scope="module", autouse=True)
def few_memory_maps():
    """Linux gives a process some 65,000 memory maps, compiled functions take them, and XLA crashes where none is left."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module", autouse=True)
def strict_promotion(request):
    """Modules marked `core` are traced strictly; optax, which trainers use, does not survive that."""
    if request.node.get_closest_marker("core") is None:
        yield
    else:
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            yield
