"""Write what policies reach that remember, for `benchmarks.readme`."""

from __future__ import annotations

from scipy.stats import ttest_ind

from benchmarks.measure import Row
from benchmarks.tables import percent, picture, span, table

ALONE = "maze, GRU"  # what one more thing is added to
LEVERS = {
    "maze, no memory": "no memory",
    "maze, GRU": "a GRU",
    "maze, GRU, central critic": "and a central critic",
    "maze, GRU, privileged critic": "and a privileged critic",
    "maze, GRU, normalised values": "and normalised values",
    "maze, GRU, independent": "and a network for each robot",
    "maze, GRU, terminate": "and robots that leave at their goals",
    "maze, GRU, learnable levels": "and half of the levels by how learnable they are",
    "maze, GRU, shortest ways": "and the reward of shortest ways",
    "maze, GRU, noise": "and an entropy bonus of 0.03 at first and 0 at the end, instead of 0.001",
    "maze, all but memory": "`--preset memory` without its memory",
    "maze, all": "`--preset memory`",
}
CORRIDOR = {
    "corridor, begin": "`--preset memory`, with an entropy bonus of 0.01 at the end",
    "corridor, 64 rays": "with 64 rays instead of 32",
    "corridor, widths": "a curriculum of widths, from 12 to 3.6 radii",
    "corridor, traffic": "a curriculum of traffic: 2, 4, 6 and 10 of 10 change sides",
    "corridor, terminate": "robots leave at their goals",
    "corridor, less noise": "an entropy bonus of 0.001, the default",
    "corridor, no memory": "without memory",
    "corridor, local critic": "with a local critic",
    "corridor, central critic": "with a central critic",
}


ROBOTS = "robots, sampled", "robots, mean action", "whole worlds, sampled", "whole worlds, mean action"


def detours(rows: list[Row]) -> str:
    """Write what was reached in all, and what each part of it is good for."""
    trials: dict[str, list[Row]] = {}
    for row in rows:
        trials.setdefault(row["benchmark"].split("/")[1], []).append(row)
    whole = [_reached(f"`{name}`", of) for name, of in trials.items() if "," not in name]
    return f"""## Detours, memory and giving way

`python -m trainers.jax_ppo --preset memory` on difficulty 1, evaluated as above; in `corridor` with
`--entropy-coefficient-final 0.01`. Each row of [detours.json](results/detours.json) has its command.

{table(("scenario", "agent steps", *ROBOTS, "seeds", "minutes"), whole)}
{_beside(rows)}{_crowd(trials)}{picture("detours", "Success of policies with memory while they train")}{_maze(trials)}\
{_corridor(trials)}"""


def _maze(trials: dict[str, list[Row]]) -> str:
    found = {name: trials[name] for name in LEVERS if name in trials}
    if ALONE not in found:
        return ""
    lines = [_lever(LEVERS[name], rows, found[ALONE]) for name, rows in found.items()]
    first = found[ALONE]
    return f"""
What each part does alone in `maze`, after {first[0]["agent_steps"] / 1e6:.1f} M agent steps, {len(first)} seeds. The effect is the
difference to the GRU alone, in percentage points, with its 95 % interval over seeds (Welch).

{table(("policy", "robots, sampled", "effect", "robots, mean action", "effect"), lines)}
{_without(trials)}"""


def _corridor(trials: dict[str, list[Row]]) -> str:
    lines = [_reached(text, trials[name])[:6] for name, text in CORRIDOR.items() if name in trials]
    if not lines:
        return ""
    return f"""
What helps in `corridor`, one seed each:

{table(("training", "agent steps", *ROBOTS), lines)}
"""


def _values(rows: list[Row]) -> tuple[list[float], list[float]]:
    """Return the robots that arrive of each seed, with sampled and with mean actions."""
    return [row["success"]["mean"] for row in rows], [row["deterministic"]["success"]["mean"] for row in rows]


def _reached(name: str, rows: list[Row]) -> tuple[str, ...]:
    sampled, mean = _values(rows)
    worlds = [[each["world_success"]["mean"] for each in of] for of in (rows, [row["deterministic"] for row in rows])]
    minutes = span([row["total_s"] / 60 for row in rows if "total_s" in row], "{:.0f}".format)
    steps = f"{rows[0]['agent_steps'] / 1e6:.0f} M"
    return name, steps, *(span(values) for values in (sampled, mean, *worlds)), str(len(rows)), minutes


def _lever(name: str, rows: list[Row], alone: list[Row]) -> tuple[str, ...]:
    cells = [name]
    for values, base in zip(_values(rows), _values(alone), strict=True):
        cells += [percent(sum(values) / len(values)), "" if rows is alone else effect(values, base)]
    return tuple(cells)


def effect(values: list[float], base: list[float]) -> str:
    """Format the difference of two means in percentage points, with Welch's 95 % interval."""
    test = ttest_ind(values, base, equal_var=False)
    low, high = test.confidence_interval()
    return f"{100 * (sum(values) / len(values) - sum(base) / len(base)):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _beside(rows: list[Row]) -> str:
    most = max(row.get("side_by_side", 1) for row in rows)
    return f"\n{most} trainings ran at a time, each on its share of the cores.\n" if most > 1 else ""


def _crowd(trials: dict[str, list[Row]]) -> str:
    told = ""
    for crowd in (row["crowd"] for rows in trials.values() for row in rows if "crowd" in row):
        sampled, mean = (percent(crowd[mode]["success"]["mean"]) for mode in ("sampled", "mean"))
        told += f"""
The policy of `open`, which has only met nine others, among {crowd["num_agents"]} robots in as much room each: {sampled} \
arrive with sampled actions, {mean} with the mean action.
"""
    return told


def _without(trials: dict[str, list[Row]]) -> str:
    with_memory, without = trials.get("maze, all"), trials.get("maze, all but memory")
    if not with_memory or not without:
        return ""
    sampled, mean = (effect(a, b) for a, b in zip(_values(with_memory), _values(without), strict=True))
    return f"\nWhat the GRU adds to the preset: {sampled} points with sampled actions, {mean} with the mean action.\n"
