"""Write the figures of README.md and benchmarks/README.md from the result files.

python -m benchmarks.readme
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from benchmarks.measure import Row
from benchmarks.report import RESULTS, load_rows
from trainers.run.files import write_atomic

PEERS = {"vmas": "VMAS `navigation`", "jaxnav": "JaxMARL JaxNav", "camar": "CAMAR `random_grid`"}
V2 = {"stepping": 53_000, "rollouts": 6_400, "updates": 307, "both": 293}  # Entropy V2 on two cores, torch on the CPU
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


def percent(value: float) -> str:
    """Format a share, for example 0.9934 as 99.3 %."""
    return f"{100 * value:.1f} %"


def span(values: list[float], form: Callable[[float], str] = percent) -> str:
    """Format the smallest and the largest value, or only one if both look the same."""
    low, high = form(min(values)), form(max(values))
    return low if low == high else f"{low} to {high}"


def training(rows: list[Row]) -> str:
    """Write what trained policies reach on fresh episodes."""
    suites: dict[str, list[Row]] = {}
    for row in rows:
        suites.setdefault(row["benchmark"].removeprefix("training/"), []).append(row)
    quick, (speed,) = suites["quickstart"], suites["speed"]
    lines = [reached(f"`open`, the default, {len(quick)} seeds", quick)]
    lines += [reached(f"`{row['scenario']}`", [row]) for row in suites["scenarios"]]
    for way in dict.fromkeys(row["scenario"] for row in suites["curriculum"]):
        seeds = [row for row in suites["curriculum"] if row["scenario"] == way]
        lines.append(reached(f"`curriculum` at level 4, trained on the {way}, {len(seeds)} seeds", seeds))
    heads = "run", "agent steps", "sampled actions", "mean action", "worlds where all arrive", "SPL"
    return f"""## What it reaches

Shares of robots that arrive, on 256 fresh episodes of ten robots. No episode's world was seen in training. In brackets
stands the 95 % interval over episodes. Default hyperparameters, difficulty 1, one seed unless the table counts more.

{table(heads, lines)}

The default run takes {span([row["total_s"] for row in quick], "{:.0f}".format)} s from start to trained, \
compilation included; its update runs at {speed["agent_steps_per_s"]:,} agent steps/s with \
{percent(speed["active_share"])} of the lanes active.

The policy has no memory. `maze` and `corridor`, where a robot must turn away from its goal or wait for others, need one.
"""


def reached(name: str, rows: list[Row]) -> tuple[str, ...]:
    """Return a line of the table of trained policies: the runs of several seeds, or one with its interval."""
    sampled = span([row["success"]["mean"] for row in rows])
    if len(rows) == 1:
        sampled += " ({} to {})".format(*(percent(rows[0]["success"][end]) for end in ("low", "high")))
    return (
        name,
        f"{rows[0]['agent_steps'] / 1e6:.2g} M",
        sampled,
        span([row["deterministic"]["success"]["mean"] for row in rows]),
        span([row["world_success"]["mean"] for row in rows]),
        span([row["spl"]["mean"] for row in rows], "{:.2f}".format),
    )


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
            f"`{row['scenario']}`",
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


def sb3(rows: list[Row]) -> str:
    """Write how fast training with Stable-Baselines3 is, and what it reaches."""
    stepping, stock, ours = (row for row in rows if row["benchmark"] == "sb3/speed")
    runs = [row for row in rows if row["benchmark"] == "sb3/training"]
    heads = "agent steps/s", "Entropy V2", "here, sb3-contrib's LSTM policy", "here"
    names = {"rollouts": "rollout_steps_per_s", "updates": "update_steps_per_s", "both": "agent_steps_per_s"}
    lines = [("stepping 80 lanes, random actions", f"{V2['stepping']:,}", "", f"{stepping['agent_steps_per_s']:,}")]
    lines += [(phase, f"{V2[phase]:,}", *(f"{row[name]:,}" for row in (stock, ours))) for phase, name in names.items()]
    shares = {"the network": "lstm", "values at time limits": "bootstrap", "the environment": "env"}
    parts = {name: ours[f"{key}_share_of_rollout"] for name, key in shares.items()}
    parts["SB3's own bookkeeping"] = 1 - sum(parts.values())
    spent = ", ".join(f"{percent(share)} {name}" for name, share in parts.items())
    reached = {mode: span([row["success"]["mean"] for row in of]) for mode, of in
               (("sampled", runs), ("mean", [row["deterministic"] for row in runs]))}  # fmt: skip
    timed = all("total_s" in row for row in runs)
    minutes = span([row["total_s"] / 60 for row in runs], "{:.0f}".format) if timed else ""
    after = (
        f""", after {minutes} minutes, {runs[0]["side_by_side"]} trainings at a time on {runs[0]["threads"]} \
core{"s" * (runs[0]["threads"] > 1)} each"""
        if timed
        else ""
    )
    return f"""## Stable-Baselines3

RecurrentPPO with Entropy V2's `multi` settings (8 worlds of 10 robots, LSTM 256, batch 4096, 10 epochs) on the CPU.

{table(heads, lines)}

A rollout's time: {spent}. An update takes {ours["update_s"] / ours["rollout_s"]:.0f} times as long as a rollout.

`python -m trainers.sb3_lstm --preset multi` on `open`, {runs[0]["agent_steps"]:,} agent steps, {len(runs)} seeds: \
{reached["sampled"]} of the robots arrive with sampled actions, {reached["mean"]} with the mean action, on \
{runs[0]["episodes"]} fresh episodes each{after}.
{picture("sb3", "Success of recurrent PPO while it trains")}"""


def classic(rows: list[Row]) -> str:
    """Write what PPO reaches in gymnax's environments."""
    lines = []
    for name in dict.fromkeys(row["benchmark"] for row in rows):
        runs = [row for row in rows if row["benchmark"] == name]
        sampled, mode = (
            span([figures["return"]["mean"] for figures in kind], "{:.1f}".format)
            for kind in (runs, [row["deterministic"] for row in runs])
        )
        env, preset, steps = name.removeprefix("classic/"), runs[0]["preset"], f"{runs[0]['agent_steps']:,}"
        seconds = span([row["total_s"] for row in runs], "{:.0f}".format)
        lines.append((f"`{env}`", f"`{preset}`", steps, str(len(runs)), sampled, mode, seconds))
    heads = "environment of gymnax", "preset", "steps", "seeds", "sampled actions", "likeliest action", "s"
    return f"""## Classic control

Mean returns of `trainers.any_env` over {rows[0]["episodes"]} fresh episodes, from the worst to the best training seed. The
seconds are from start to evaluated, compilation included.

{table(heads, lines)}
"""


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
    classic,
    crowds,
    env_steps,
    scaling,
    pettingzoo_latency,
    peers,
    sb3,
    gpu,
)  # each function writes the figures of the result file of its name


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rows = (" | ".join(cells) for cells in (heads, *lines))
    top, *rest = (f"| {row} |" for row in rows)
    return "\n".join([top, "|" + "---|" * len(heads), *rest])


def counts(row: Row) -> str:
    """Format the numbers of robots and worlds."""
    return f"{row['num_agents']:,} x {row['num_envs']:,}"


def shown(row: Row, name: str, form: Callable[[Any], str]) -> str:
    """Format a value, or return an empty text if there is none."""
    return "" if row.get(name) is None else form(row[name])


def picture(name: str, text: str, folder: str = "results") -> str:
    """Return the link to a plot of `benchmarks.plots`, or an empty text if it has not been drawn.

    folder: that of the results, seen from the page.
    """
    return f"\n![{text}]({folder}/{name}.png)\n" if (RESULTS / f"{name}.png").exists() else ""


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
    trained, speeds = load_rows("training", results), load_rows("peers", results)
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
        goals = [(f"`open`, the default, {len(quick)} seeds", quick), ("`rooms`", rooms)]
        reached = [
            (
                name,
                f"{rows[0]['agent_steps'] / 1e6:.0f} M",
                span([row["total_s"] for row in rows], "{:.0f}".format),
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
