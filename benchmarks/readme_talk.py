"""Write what robots reach that talk, for `benchmarks.readme`."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import Row
from benchmarks.tables import percent, picture, span, table

TOLD = {
    "relay": "`relay`, `--speech soft`",
    "relay, difficulty 4": "the same, difficulty 4",
    "relay, no words": "`relay`, nobody talks",
    "relay, reinforced": "`relay`, `--speech reinforced`",
    "relay, differentiable": "`relay`, `--speech differentiable`",
    "lookout": "`lookout`",
    "corridor": "`corridor`, `--preset memory`, nobody talks",
    "corridor, words": "the same, with words",
}
CUT = {"cut": "nobody hears", "shuffled": "words of another robot", "noise": "random words"}


def talk(rows: list[Row]) -> str:
    """Write what was reached with words and without."""
    trials: dict[str, list[Row]] = {}
    for row in rows:
        trials.setdefault(row["benchmark"].split("/")[1], []).append(row)
    lines = [_reached(text, trials[name]) for name, text in TOLD.items() if name in trials]
    heads = "training", "agent steps", "robots, sampled", "robots, mean action", "worst tenth of worlds"
    return f"""## Words

Robots that [talk](../entropy_env/README.md#words), 4 in `relay` and `lookout`, 10 in `corridor`, difficulty 1 unless the table says
otherwise. Success is that of evaluations without any help; in `lookout` it is that of carriers. Each row of
[talk.json](results/talk.json) has its command.

{table((*heads, *CUT.values(), "seeds", "minutes"), lines)}
{picture("talk", "Success of robots that talk while they train")}{_more(trials)}"""


def _reached(name: str, rows: list[Row]) -> tuple[str, ...]:
    def cell(values: list[Any]) -> str:
        return span(values) if values else ""

    steps = f"{rows[0]['agent_steps'] / 1e6:.0f} M"
    worlds = [row["worst_tenth"] for row in rows if "worst_tenth" in row]
    words = [row["words"]["success"] for row in rows if "words" in row]
    minutes = span([row["total_s"] / 60 for row in rows if "total_s" in row], "{:.0f}".format)
    reached = [[each["success"]["mean"] for each in of] for of in (rows, [row["deterministic"] for row in rows])]
    return name, steps, *map(cell, reached), cell(worlds), *(cell([each[way]["mean"] for each in words]) for way in CUT), \
        str(len(rows)), minutes  # fmt: skip


def _more(trials: dict[str, list[Row]]) -> str:
    text = ""
    for row in trials.get("relay", []):
        if "crowd" in row:
            crowd = row["crowd"]
            sampled, mean = percent(crowd["success"]["mean"]), percent(crowd["deterministic"]["success"]["mean"])
            text += f"\nTrained with 4 robots, seed {row['seed']}, played with {crowd['num_agents']}: {sampled} sampled, {mean} mean action.\n"
        if "price" in row:
            text += _price(row)
    rows = [row for row in trials.get("relay", []) if "words" in row][:1]
    for row in rows:
        drops = {each["comm_drop"]: percent(each["mean"]) for each in row["words"]["comm_drop"]}
        ranges = {each["comm_range"]: percent(each["mean"]) for each in row["words"]["comm_range"]}
        lost = ", ".join(f"{value} at {100 * drop:.0f} %" for drop, value in drops.items())
        heard = ", ".join(f"{value} at {distance:g} m" for distance, value in ranges.items())
        text += f"""
The first seed of `relay` by the share of words that are lost: {lost}. By how far words are heard: {heard}.
"""
    return text


def _price(row: Row) -> str:
    price, before = row["price"], row["words"]
    return f"""
From the first seed of `relay` on with `{price["flags"]}`: {price["words"]["messages"]:.2f} words a robot and step instead of
{before["messages"]:.2f}, and {percent(price["success"]["mean"])} instead of {percent(row["success"]["mean"])} of the robots arrive.
"""
