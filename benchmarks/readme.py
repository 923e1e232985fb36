"""Write the README's figures from the result files.

python -m benchmarks.readme
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainers.common.files import write_atomic

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- figures: written by benchmarks.readme -->\n", "<!-- end of figures -->"
Row = dict[str, Any]


def percent(value: float) -> str:
    """0.9934 as 99.3 %."""
    return f"{100 * value:.1f} %"


def span(values: list[float], form: Any = percent) -> str:
    """The smallest to the largest."""
    low, high = form(min(values)), form(max(values))
    return low if low == high else f"{low} to {high}"


def rows_of(name: str) -> list[Row]:
    """Of a result file."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def training() -> str:
    """What trained policies reach on fresh episodes."""
    suites: dict[str, list[Row]] = {}
    for row in rows_of("training"):
        suites.setdefault(row["benchmark"].removeprefix("training/"), []).append(row)
    quick, (speed,) = suites["quickstart"], suites["speed"]
    lines = [
        "| run | agent steps | sampled actions | mean action | worlds where all arrive | SPL |",
        "|---|---|---|---|---|---|",
        (
            f"| `open`, the default, {len(quick)} seeds | {quick[0]['agent_steps'] / 1e6:.1f} M "
            f"| {span([row['success']['mean'] for row in quick])} "
            f"| {span([row['deterministic']['success']['mean'] for row in quick])} "
            f"| {span([row['world_success']['mean'] for row in quick])} "
            f"| {span([row['spl']['mean'] for row in quick], '{:.2f}'.format)} |"
        ),
    ]
    for row in suites["scenarios"]:
        success = row["success"]
        lines.append(
            f"| `{row['scenario']}` | {row['agent_steps'] / 1e6:.0f} M "
            f"| {percent(success['mean'])} ({percent(success['low'])} to {percent(success['high'])}) "
            f"| {percent(row['deterministic']['success']['mean'])} | {percent(row['world_success']['mean'])} "
            f"| {row['spl']['mean']:.2f} |"
        )
    lines += [
        "",
        (
            f"The default run takes {span([row['total_s'] for row in quick], '{:.0f}'.format)} s from start to trained, "
            f"compilation included; its update runs at {speed['agent_steps_per_s']:,} agent steps/s with "
            f"{percent(speed['active_share'])} of the lanes active."
        ),
    ]
    return "\n".join(lines)


def simulator() -> str:
    """How fast the simulator is."""
    lines = [
        "| scenario | robots x worlds | agent steps/s | compile, s | with cache, s | bytes of state a world |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{row['scenario']}` | {row['num_agents']} x {row['num_envs']} | {row['agent_steps_per_s']:,} "
        f"| {row['compile_s']:.1f} | {row['compile_cached_s']:.1f} | {row['state_bytes_per_world']:,} |"
        for row in rows_of("env_steps")
    ]
    return "\n".join(lines)


def main() -> None:
    """Replace what stands between the two marks."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    text = f"""
### What it reaches

Shares of robots that arrive, on 256 fresh episodes of ten robots, one episode a world, none seen in training; in
brackets the 95 % interval over episodes. Default hyperparameters, difficulty 1, one seed where none are counted.

{training()}

The policy has no memory: `maze` and `corridor`, where a robot must turn away from its goal or wait for others, want
more than that.

### How fast the simulator is

Random actions, full lidar, observations, rewards and resets included; compile time is that of reset and rollout.

{simulator()}

All on two CPU cores; the commits and versions are in [benchmarks/results](benchmarks/results).

"""
    write_atomic(readme, before + BEGIN + text + END + after)


if __name__ == "__main__":
    main()
