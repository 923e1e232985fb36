"""Write the figures of README.md and benchmarks/README.md from the result files.

python -m benchmarks.readme
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from benchmarks.measure import Row
from benchmarks.readme_detours import detours
from benchmarks.readme_talk import talk
from benchmarks.readme_training import classic, sb3, training
from benchmarks.report import RESULTS, load_rows
from benchmarks.tables import counts, percent, picture, shown, span, table
from trainers.run.files import write_atomic

PEERS = {"vmas": "VMAS `navigation`", "jaxnav": "JaxMARL JaxNav", "camar": "CAMAR `random_grid`"}
FACTS = {  # what the README says of other simulators beside their speed, from their own documentation
    "": ("entropy-env", "VMAS", "JaxNav of JaxMARL", "CAMAR"),
    "written in": ("JAX, and Numba for CPUs", "PyTorch", "JAX", "JAX"),
    "robots": (
        "discs with two wheels, by speeds or by forces",
        "discs, boxes, lines; holonomic, differential drive, bicycles, drones",
        "differential drive; squares, discs, polygons",
        "discs, holonomic or differential drive",
    ),
    "observes": (
        "an exact lidar, 32 rays: walls, obstacles, robots",
        "what a scenario says, lidar among it",
        "a lidar of 200 beams in steps of 5 cm",
        "the nearest objects, no lidar",
    ),
    "contact": (
        "they stop each other and slide; never an overlap",
        "elastic forces",
        "ends the episode of who collides",
        "repelling forces",
    ),
    "works with": (
        "PettingZoo, Gymnasium, SB3, gymnax, JaxMARL",
        "Gym, Gymnasium, RLlib, TorchRL, BenchMARL",
        "JaxMARL",
        "gymnax's interface, TorchRL, BenchMARL",
    ),
    "take it for": (
        "wheels, lidar, walls, crowds, speed",
        "many other tasks, and gradients through the physics",
        "JaxMARL's baselines, and levels chosen for training",
        "maps of LabMaze and MovingAI, and RRT planners",
    ),
}
ROOT = RESULTS.parent.parent
BEGIN, END = "<!-- figures: written by benchmarks.readme -->\n", "<!-- end of figures -->"


@dataclasses.dataclass(frozen=True)
class Options:
    """The files to read and write."""

    results: Path = RESULTS
    """Folder of the result files."""
    root: Path = ROOT
    """Folder of the repository, whose two READMEs are written to."""


def env_steps(rows: list[Row]) -> str:
    """Write how fast the simulator is."""
    heads = (
        "scenario",
        "robots x worlds",
        "engine",
        "agent steps/s",
        "compile, s",
        "with cache, s",
        "bytes of state a world",
    )
    lines = [
        (
            f"`{row['scenario']}`" + (f", {row['comm_neighbours']} heard" if row.get("comm_neighbours") else ""),
            counts(row),
            row["engine"],
            f"{row['agent_steps_per_s']:,}",
            f"{row['compile_s']:.1f}",
            shown(row, "compile_cached_s", "{:.1f}".format),
            shown(row, "state_bytes_per_world", "{:,}".format),
        )
        for row in rows
    ]
    return f"""## How fast the simulator is

Random actions, full lidar, observations, rewards and resets included; compile time is until the first step.

{table(heads, lines)}
"""


def scaling(rows: list[Row]) -> str:
    """Write how the time of a step grows with the number of robots."""
    most = max(row["num_agents"] for row in rows)
    largest = [row for row in rows if (row["num_agents"], row["series"]) == (most, "density")]
    speeds = ", ".join(f"{row['world_steps_per_s']:,.3g} with {row['engine']}" for row in largest)
    return f"""## Large swarms

Steps a second of one world of {" x ".join(f"{length:.0f}" for length in largest[0]["size"])} m with {most:,} robots: \
{speeds}.
{picture("scaling", "Time of an agent step by the number of agents")}"""


def pettingzoo_latency(rows: list[Row]) -> str:
    """Write how long users of PettingZoo wait."""
    heads = "robots", "engine", "steps/s", "reset, ms", "first use, s", "second process, s"
    lines = [
        (
            f"{row['num_agents']:,}",
            row["engine"],
            f"{row['world_steps_per_s']:,.0f}",
            f"{1e3 * row['reset_s']:.2f}",
            shown(row, "first_use_s", "{:.1f}".format),
            shown(row, "second_use_s", "{:.1f}".format),
        )
        for row in rows
    ]
    return f"""## PettingZoo, one world

Steps of one `parallel_env()` a second, with all its dicts. First use is from the start of Python to the end of the
first step, with an empty Numba cache; the second process finds it filled.

{table(heads, lines)}
"""


def peers(rows: list[Row]) -> str:
    """Write how fast other simulators are, beside ours."""
    ours = list(dict.fromkeys(row["engine"] for row in rows if row["engine"] not in PEERS))
    speed = {(row["engine"], counts(row)): row for row in rows}
    lines = [
        (
            PEERS[row["engine"]],
            counts(row),
            f"{row['agent_steps_per_s']:,}",
            *(f"{speed[engine, counts(row)]['ratios'][row['engine']]:,.3g} x" for engine in ours),
        )
        for row in rows
        if row["engine"] in PEERS
    ]
    heads = "simulator", "robots x worlds", "agent steps/s", *(f"{engine} is faster" for engine in ours)
    return f"""## Beside other simulators

Same counts, same random actions, one process, in turn. They do not simulate the same things: see
[peers.py](peers.py).

{table(heads, lines)}
{picture("peers", "Agent steps a second of all systems")}"""


def gpu(rows: list[Row]) -> str:
    """Write how fast an accelerator is."""
    heads = "", "robots x worlds", "agent steps/s", "of the memory's speed", "of the arithmetic's"
    lines = [
        (
            "PPO update" if row["benchmark"] == "gpu/training" else f"`{row['scenario']}`",
            counts(row),
            f"{row['agent_steps_per_s']:,}",
            shown(row, "bytes_share", percent),
            shown(row, "operations_share", percent),
        )
        for row in rows
        if row.get("series") != "arena"
    ]
    return f"""## On a GPU

One {rows[0]["device"]}. The shares count what a step needs at least, see [cost.py](cost.py).

{table(heads, lines)}
{picture("gpu", "Agent steps a second by the number of worlds")}"""


def crowds(rows: list[Row]) -> str:
    """Write the results of the crowds."""
    world_steps, robots = sum(row["num_envs"] * row["steps"] for row in rows), [row["num_agents"] for row in rows]
    least, passed = min(row["worst_gap_m"] for row in rows), sum(row["passed_walls"] for row in rows)
    return f"""## Crowds

`python -m benchmarks.crowds` presses {min(robots)} to {max(robots)} robots into corners, wedges, gaps and each other, in \
arenas of up to 1,000 m, and looks at every step in float64. In {world_steps:,} world steps of \
{len({(row["case"], row["num_agents"]) for row in rows})} cases, with both engines and both drives, the least gap between any \
two bodies was {1e6 * least:.2g} um, and {f"{passed} robots" if passed else "no robot"} passed a wall.
"""


PARTS = (
    training,
    detours,
    talk,
    classic,
    crowds,
    env_steps,
    scaling,
    pettingzoo_latency,
    peers,
    sb3,
    gpu,
)  # each function writes the figures of the result file of its name


def figures(results: Path = RESULTS) -> str:
    """Return the figures of benchmarks/README.md: one part for every result file that exists."""
    found = {part: rows for part in PARTS if (rows := load_rows(part.__name__, results))}
    devices = " and ".join(sorted({row["device"] for part, rows in found.items() for row in rows if part is not gpu}))
    text = "\n".join(part(rows) for part, rows in found.items())
    return f"""
{text}
Measured on {devices}; commits and versions are in [results](results).

"""


def summary(results: Path = RESULTS) -> str:
    """Return the figures of README.md: facts and speeds of other simulators beside ours, and what training reaches."""
    trained, speeds, remembering = (load_rows(name, results) for name in ("training", "peers", "detours"))
    heads, *lines = ((name, *cells) for name, cells in FACTS.items())
    text = ""
    if speeds:
        counted = counts(speeds[0])
        speed = {row["engine"]: f"{row['agent_steps_per_s']:,}" for row in speeds if counts(row) == counted}
        ours = ", ".join(f"{value} with {name}" for name, value in speed.items() if name not in PEERS)
        lines.append((f"agent steps/s, {counted} worlds", ours, *(speed.get(name, "") for name in PEERS)))
        text += f"""
They do not simulate the same things: [benchmarks/peers.py](benchmarks/peers.py) says what was compared, on \
{speeds[0]["device"]}.
{picture("peers", "Agent steps a second of all systems", "benchmarks/results")}"""
    if trained:
        quick = [row for row in trained if row["benchmark"] == "training/quickstart"]
        rooms = [row for row in trained if (row["benchmark"], row["scenario"]) == ("training/scenarios", "rooms")]
        goals = [(f"`open`, the default, {len(quick)} seeds", quick), ("`rooms`, the default", rooms)]
        for name in ("rooms", "maze", "corridor"):
            seeds = [row for row in remembering if row["benchmark"].split("/")[1] == name]
            goals.append((f"`{name}`, `--preset memory`" + f", {len(seeds)} seeds" * (len(seeds) > 1), seeds))
        reached = [
            (
                name,
                f"{rows[0]['agent_steps'] / 1e6:.0f} M",
                span([row["total_s"] for row in rows if "total_s" in row], "{:.0f}".format),
                span([row["success"]["mean"] for row in rows]),
                span([row["world_success"]["mean"] for row in rows]),
            )
            for name, rows in goals
            if rows
        ]
        text += f"""
What the PPO here reaches with sampled actions, on 256 fresh episodes of ten robots:

{table(("trained in", "agent steps", "seconds", "robots that arrive", "worlds where all ten arrive"), reached)}
"""
    return f"""
{table(heads, lines)}
{text}
[All figures](benchmarks/README.md), of other scenarios, large swarms, PettingZoo and Stable-Baselines3.

"""


PAGES = {"README.md": summary, "benchmarks/README.md": figures}


def replaced(readme: str, text: str) -> str:
    """Return the README with another text between the marks."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + text + END + rest.split(END)[1]


def main(options: Options) -> None:
    """Replace the text between the two marks of each page."""
    for name, write in PAGES.items():
        path = options.root / name
        write_atomic(path, replaced(path.read_text(), write(options.results)))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
