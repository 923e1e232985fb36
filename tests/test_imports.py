"""Who may import whom.

The simulator: checks <- rewards <- types <- geometry <- neighbours <- {physics, lidar, comms, scenarios} <- observations
<- settings <- env <- vector <- {spread, engines}. Beside it: spaces and task, which describe worlds, and render, which knows states alone.
On top: adapters, which know no other adapter, and swarm_v0. The trainers: rooms that know those in their row of `ROOMS`
alone, and commands on top, which know no other command.
"""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

import entropy_env

PACKAGE = Path(entropy_env.__file__).parent
TRAINERS = PACKAGE.parent / "trainers"
SIDE_BY_SIDE = ("physics", "lidar", "geodesic", "comms", "scenarios")
BELOW = {"checks": (), "rewards": ("checks",), "types": ("checks", "rewards"), "geometry": ("types",)}
BELOW |= {"neighbours": ("types", "geometry")}
BELOW |= {"vocabulary": ("types",)}
BELOW |= dict.fromkeys(SIDE_BY_SIDE, ("checks", "types", "geometry", "neighbours"))
BELOW["scenarios"] += ("vocabulary",)
BELOW |= {"observations": ("checks", "types", "geometry", "neighbours", *SIDE_BY_SIDE)}
BELOW |= {"settings": (*BELOW["observations"], "rewards")}
BELOW |= {"env": (*BELOW["settings"], "observations", "settings")}
BELOW |= {"vector": (*BELOW["env"], "env")}
BELOW |= {"spread": (*BELOW["vector"], "vector")}
CORE = tuple(BELOW)
BELOW |= {"cache": (), "engines": (*BELOW["spread"], "cache")}
BELOW |= {"spaces": ("types", "observations"), "task": (*BELOW["env"], "env")}
BELOW |= {"render": ("checks", "types", "comms", "vocabulary"), "video": ("render",)}
BELOW |= {"adapters": (*BELOW["engines"], "engines", "spaces", "task", "render"), "swarm_v0": ("adapters",)}
BELOW |= {"__init__": tuple(BELOW)}
LIBRARIES = {"jax", "flax", "numpy"}
OTHERS = {  # libraries that a room needs beside those
    "engines": {"numba", "llvmlite"},
    "spaces": {"gymnasium"},
    "render": {"pygame", "imageio_ffmpeg"},
    "adapters": {"gymnasium", "pettingzoo", "stable_baselines3", "gymnax", "jaxmarl"},
    "swarm_v0": {"pettingzoo"},
    "__init__": {"gymnasium"},
}


def name_of(path):
    """The module's dotted name from its file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports_of(path):
    """Absolute dotted names of everything a file imports, anywhere in it."""
    return tuple(_imports_of(path))


def _imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            here = name_of(path).split(".") + ["__init__"] * (path.stem == "__init__")
            module = ".".join([*here[: -node.level], *filter(None, [node.module])]) if node.level else node.module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def files_of(name):
    """The file of a module, or those of a package."""
    return [PACKAGE / f"{name}.py"] if (PACKAGE / f"{name}.py").exists() else sorted((PACKAGE / name).rglob("*.py"))


MODULES = [(name, path) for name in BELOW for path in files_of(name)]


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name_of(path) for _, path in MODULES])
def test_modules_import_only_what_is_below_them(name, path):
    for imported in imports_of(path):
        root, *rest = imported.split(".")
        if root == "entropy_env":
            assert rest[0] in (*BELOW[name], name), imported
        else:
            assert root in LIBRARIES | OTHERS.get(name, set()) | sys.stdlib_module_names, imported
        assert root != "flax" or imported.startswith("flax.struct"), imported


def test_every_module_is_in_the_table():
    assert {path for _, path in MODULES} == {*PACKAGE.rglob("*.py")}


SHARED = {"world", "functional"}  # among the adapters


@pytest.mark.parametrize("path", files_of("adapters"), ids=name_of)
def test_adapters_know_no_other_adapter(path):
    for imported in imports_of(path):
        if imported.startswith("entropy_env.adapters."):
            assert imported.split(".")[2] in SHARED, imported


PHYSICS = {"double": (), "contacts": (), "kinematic": ("contacts",), "force": ("contacts", "double")}
PHYSICS_ROOMS = [*files_of("physics"), *files_of("engines/numba_engine/physics")]


@pytest.mark.parametrize("path", PHYSICS_ROOMS, ids=name_of)
def test_rooms_of_physics_know_those_below_them_alone(path):
    physics, allowed = name_of(path.parent / "__init__.py"), PHYSICS.get(path.stem, tuple(PHYSICS))
    for imported in imports_of(path):
        if f"{imported}.".startswith(f"{physics}."):
            assert imported.removeprefix(f"{physics}.").split(".")[0] in allowed, imported


def test_every_room_of_physics_is_in_the_table():
    assert {*PHYSICS, "__init__"} == {path.stem for path in PHYSICS_ROOMS}


PROJECT = tomllib.loads((TRAINERS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
OPTIONAL = {re.split(r"[<>=\[]", need)[0] for name in EXTRAS.keys() - {"cuda", "all"} for need in EXTRAS[name]}
OPTIONAL = {
    {"pillow": "PIL"}.get(name, name.replace("-", "_")) for name in OPTIONAL - {"entropy-env"}
}  # as Python imports them
OPTIONAL |= {"gymnax", "jaxmarl", "pygame", "imageio_ffmpeg", "tensorboardX"}  # or loaded when first needed


@pytest.mark.parametrize("package", [PACKAGE, TRAINERS], ids=["simulator", "trainers"])
def test_each_optional_library_is_known_in_one_place(package):
    """A file, or the room `trainers.sb3`."""
    places = defaultdict(set)
    for path in package.rglob("*.py"):
        for library in OPTIONAL & {imported.split(".")[0] for imported in imports_of(path)}:
            places[library].add("trainers.sb3" if path.parent == TRAINERS / "sb3" else name_of(path))
    assert places
    assert not {library: users for library, users in places.items() if len(users) > 1}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_the_simulator_knows_no_trainer(path):
    assert not [name for name in imports_of(path) if name.split(".")[0] == "trainers"]


@pytest.mark.parametrize(
    ("libraries", "adapter"),
    [
        ({"torch", "stable_baselines3", "sb3_contrib"}, "sb3"),
        ({"gymnax"}, "gymnax"),
        ({"jaxmarl"}, "jaxmarl"),
    ],
)
def test_one_adapter_alone_knows_an_optional_library_and_says_what_it_needs(libraries, adapter):
    users = [
        path.stem for path in PACKAGE.rglob("*.py") if libraries & {name.split(".")[0] for name in imports_of(path)}
    ]
    assert users == [adapter]
    absent = f"import sys; sys.modules |= dict.fromkeys({libraries}); "
    try_it = f"""
try:
    import entropy_env.adapters.{adapter}
except ModuleNotFoundError as error:
    print(error)
"""
    assert {"needs", "pip", "install"} <= set(run(absent + try_it))


ROOMS = {  # or modules, and the rooms or modules that they may know beside their own
    "envs": (),
    "learn": ("envs.contract",),
    "networks": (),
    "run.files": (),
    "run.terminal": (),
    "track.__main__": ("track", "run"),  # a command
    "track": ("run.files", "run.terminal"),
    "run": ("track",),
    "policies": ("learn", "networks", "run"),
    "algorithms": ("envs.contract", "learn", "networks"),
    "curriculum": ("envs.views", "learn", "run"),
    "evaluation": ("envs.contract", "policies", "run"),
    "common": ("policies",),
    "sb3": ("learn", "policies", "evaluation", "run", "track"),
}


def is_in(name, rooms):
    return any(f"{name}.".startswith(f"trainers.{room}.") for room in rooms)


@pytest.mark.parametrize("path", sorted(TRAINERS.rglob("*.py")), ids=name_of)
def test_rooms_of_the_trainers_know_those_below_them_alone(path):
    """Commands, which stand beside the rooms, may know all rooms, but no other command."""
    room = next((room for room in ROOMS if is_in(name_of(path), [room])), None)
    allowed = (*ROOMS[room], room) if room else ROOMS
    for imported in imports_of(path):
        assert imported.split(".")[0] != "trainers" or is_in(imported, allowed), imported


def test_every_room_of_the_trainers_is_in_the_table():
    assert {room.split(".")[0] for room in ROOMS} == {path.parent.name for path in TRAINERS.glob("*/__init__.py")}


TORCH = {"torch", "stable_baselines3", "sb3_contrib", "supersuit"}
WITH_TORCH = {"entropy_env.adapters.sb3", "trainers.sb3_lstm"}  # and the package trainers.sb3


@pytest.mark.parametrize("path", [*sorted(PACKAGE.rglob("*.py")), *sorted(TRAINERS.rglob("*.py"))], ids=name_of)
def test_torch_is_imported_where_it_is_needed_alone(path):
    name = name_of(path)
    if name not in WITH_TORCH and not f"{name}.".startswith("trainers.sb3."):
        needed = {*WITH_TORCH, "trainers.sb3"}
        for imported in imports_of(path):
            assert imported.split(".")[0] not in TORCH, imported
            assert not any(f"{imported}.".startswith(f"{module}.") for module in needed), imported


def run(code):
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_importing_the_core_starts_no_device_and_no_computation():
    modules = ", ".join(sorted(name_of(path) for name in CORE for path in files_of(name)))
    started = run(f"import {modules}; from jax._src import xla_bridge; print(len(xla_bridge._backends))")
    assert started == ["0"]
    begun = run(
        "import jax.numpy as jnp; jnp.zeros(1); from jax._src import xla_bridge; print(len(xla_bridge._backends))"
    )
    assert begun != ["0"], "the question no longer means what it should"


def test_importing_the_core_brings_in_no_other_library():
    code = "import entropy_env.vector, sys; print(*{name.split('.')[0] for name in sys.modules})"
    assert not {"pettingzoo", "pygame", "torch", "tensorboardX", "optax"} & set(run(code))


def test_importing_the_package_does_not_import_jax():
    assert not {"jax", "numba", "pettingzoo", "pygame"} & set(run("import entropy_env, sys; print(*sys.modules)"))


def test_making_an_environment_for_a_cpu_starts_no_device():
    """So that a process may still fork, and a GPU is left to whoever needs it."""
    code = "from entropy_env import swarm_v0; swarm_v0.parallel_env(3, engine='numba'); "
    assert run(code + "from jax._src import xla_bridge; print(len(xla_bridge._backends))") == ["0"]


def test_public_names_are_there_and_come_when_asked_for():
    code = "import entropy_env, sys; print(*(getattr(entropy_env, name).__name__ for name in ('Swarm', 'vector')))"
    assert run(code) == ["Swarm", "entropy_env.vector"]


def test_all_extras_are_for_any_machine():
    (everything,) = EXTRAS["all"]
    named = everything.removeprefix("entropy-env[").removesuffix("]").split(",")
    assert {*named} == EXTRAS.keys() - {"all", "cuda", "gymnax"}
