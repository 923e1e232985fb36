"""Draw the result files as plots.

    python -m benchmarks.plots

Benchmarks without a result file are skipped.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import tyro
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.measure import Row
from benchmarks.report import RESULTS, load_rows

NAMES = {"numba": "Numba", "jax": "JAX", "vmas": "VMAS", "jaxnav": "JaxNav", "camar": "CAMAR"}
COLOURS = {"numba": "#0072b2", "jax": "#d55e00"}  # distinct to colour-blind readers (Okabe and Ito)
OTHERS = "#999999"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
SERIES = {"density": ("-", "o", "4.8 m² each"), "arena": ("--", "s", "60 x 50 m")}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to draw."""

    results: Path = RESULTS
    """Folder of the result files. The plots are written there too."""


def scaling(axes: Axes, rows: list[Row]) -> None:
    """Plot the time of an agent step over the number of agents."""
    for engine in dict.fromkeys(row["engine"] for row in rows):
        for series, (line, marker, name) in SERIES.items():
            points = [row for row in rows if (row["engine"], row["series"]) == (engine, series)]
            if points:
                x, y = [row["num_agents"] for row in points], [row["agent_step_ns"] / 1e3 for row in points]
                label = f"{NAMES[engine]}, {name}"
                axes.plot(x, y, line, marker=marker, markersize=4, color=COLOURS[engine], label=label)
    axes.set(xscale="log", yscale="log", xlabel="agents in one world", ylabel="time per agent step, µs")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    _plain(axes.xaxis, axes.yaxis)
    axes.legend(frameon=False)


def peers(axes: Axes, rows: list[Row]) -> None:
    """Plot the agent steps per second of all systems, grouped by numbers of agents and worlds."""
    counts = list(dict.fromkeys((row["num_agents"], row["num_envs"]) for row in rows))
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    places, labels = [], []
    for group, count in enumerate(counts):
        for row in rows:
            if (row["num_agents"], row["num_envs"]) == count:
                place = group * (len(engines) + 1) + engines.index(row["engine"])
                speed = row["agent_steps_per_s"]
                axes.barh(place, speed, color=COLOURS.get(row["engine"], OTHERS))
                axes.text(speed * 1.1, place, f"{speed:,}", va="center", fontsize=8)
                places.append(place)
                labels.append(f"{NAMES[row['engine']]}, {count[0]} x {count[1]}")
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="agent steps per second, agents x worlds")
    speeds = [row["agent_steps_per_s"] for row in rows]
    axes.set_xlim(10 ** math.floor(math.log10(min(speeds) / 2)), max(speeds) * 6)
    _plain(axes.xaxis)


def gpu(axes: Axes, rows: list[Row]) -> None:
    """Plot the agent steps per second over the number of worlds."""
    points = [row for row in rows if row["benchmark"] == "gpu/worlds"]
    x, y = [row["num_envs"] for row in points], [row["agent_steps_per_s"] / 1e6 for row in points]
    axes.plot(x, y, "-o", markersize=4, color=COLOURS["jax"], label=points[0]["device"])
    axes.set(xscale="log", xlabel="worlds of 10 agents", ylabel="agent steps per second, millions")
    axes.set_ylim(bottom=0)
    _plain(axes.xaxis)
    axes.legend(frameon=False)


def sb3(axes: Axes, rows: list[Row]) -> None:
    """Plot the success of recurrent PPO during training, one line per seed."""
    for row in (row for row in rows if row["benchmark"] == "sb3/training"):
        curve = [point for point in row["curve"] if point["env/goal_reached_rate"] is not None]
        x, y = [point["step"] / 1e3 for point in curve], [point["env/goal_reached_rate"] for point in curve]
        axes.plot(x, y, "-o", markersize=3, label=f"seed {row['seed']}")
    axes.set(xlabel="agent steps, thousands", ylabel="robots that reach their first goal", xlim=0, ylim=(0, 1.02))
    axes.legend(frameon=False)


def detours(axes: Axes, rows: list[Row]) -> None:
    """Plot the success of policies with memory during training, one line per seed."""
    whole = [row for row in rows if "," not in row["benchmark"]]
    for scenario, colour in zip(dict.fromkeys(row["scenario"] for row in whole), PALETTE, strict=False):
        seeds = [row["curve"] for row in whole if row["scenario"] == scenario]
        for label, curve in zip([scenario] + [None] * len(seeds), seeds, strict=False):
            x, y = [step / 1e6 for step, _ in curve], [success for _, success in curve]
            axes.plot(x, y, color=colour, linewidth=1, label=label)
    axes.set(xlabel="agent steps, millions", ylabel="robots that reach their goal", xlim=0, ylim=(0, 1.02))
    axes.legend(frameon=False, ncols=2)


def talk(axes: Axes, rows: list[Row]) -> None:
    """Plot the success of robots that talk during training, one line per seed."""
    for name, colour in zip(dict.fromkeys(row["benchmark"].split("/")[1] for row in rows), PALETTE, strict=False):
        seeds = [row["curve"] for row in rows if row["benchmark"].split("/")[1] == name]
        for label, curve in zip([name] + [None] * len(seeds), seeds, strict=False):
            x, y = [step / 1e6 for step, _ in curve], [success for _, success in curve]
            axes.plot(x, y, color=colour, linewidth=1, label=label)
    axes.set(xlabel="agent steps, millions", ylabel="robots that reach their goal", xlim=0, ylim=(0, 1.02))
    axes.legend(frameon=False, fontsize=7)


def _plain(*log: Axis) -> None:
    """Label axes with plain numbers instead of powers of ten."""
    for axis in log:
        axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axis.set_minor_formatter(NullFormatter())


def main(options: Options) -> None:
    """Draw one plot per result file."""
    plt.rcParams |= {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "entropy-env",
    }
    for draw in (scaling, peers, gpu, sb3, detours, talk):
        if rows := load_rows(draw.__name__, options.results):
            figure, axes = plt.subplots(figsize=(6.4, 3.6), dpi=150, layout="constrained")
            axes.grid(axis="x" if draw is peers else "both", color="#dddddd", linewidth=0.6)
            axes.set_axisbelow(True)
            draw(axes, rows)
            figure.savefig(options.results / f"{draw.__name__}.png", metadata={"Software": None})
            plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
