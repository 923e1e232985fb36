"""Write what trainings reach and how fast they are, for `benchmarks.readme`."""

from __future__ import annotations

from benchmarks.measure import Row
from benchmarks.tables import percent, picture, shown, span, table

V2 = {"stepping": 53_000, "rollouts": 6_400, "updates": 307, "both": 293}  # Entropy V2 on two cores, torch on the CPU


def training(rows: list[Row]) -> str:
    """Write what trained policies reach on fresh episodes."""
    suites: dict[str, list[Row]] = {}
    for row in rows:
        suites.setdefault(row["benchmark"].removeprefix("training/"), []).append(row)
    quick, (speed, *recurrent) = suites["quickstart"], suites["speed"]
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
{percent(speed["active_share"])} of the lanes active.{_recurrent(recurrent)}

The policy has no memory. `maze` and `corridor`, where a robot must turn away from its goal or wait for others, need one:
see [detours](#detours-memory-and-giving-way).
"""


def _recurrent(rows: list[Row]) -> str:
    """Write how fast policies learn that remember. rows: in `open`, and in `maze` without and with shortest ways."""
    if not rows:
        return ""
    gru, plain, ways = (row["agent_steps_per_s"] for row in rows)
    return f"""
With a GRU of 64 units in a shared trunk, learnt over 16 steps, it runs at {gru:,} agent steps/s, in `maze` at {plain:,}, and
there with the reward of shortest ways at {ways:,}: they take {percent(1 - ways / plain)} of the time."""


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


def sb3(rows: list[Row]) -> str:
    """Write how fast training with Stable-Baselines3 is, and what it reaches."""
    stepping, stock, ours, *native = (row for row in rows if row["benchmark"] == "sb3/speed")
    runs = [row for row in rows if row["benchmark"] == "sb3/training"]
    heads = (
        "agent steps/s",
        "Entropy V2",
        "here, sb3-contrib's LSTM policy",
        "here",
        *["`trainers.jax_ppo`"] * len(native),
    )
    names = {"rollouts": "rollout_steps_per_s", "updates": "update_steps_per_s", "both": "agent_steps_per_s"}
    alone = f"{stepping['agent_steps_per_s']:,}"
    lines = [("stepping 80 lanes, random actions", f"{V2['stepping']:,}", "", alone, *[""] * len(native))]
    columns = stock, ours, *native
    lines += [
        (phase, f"{V2[phase]:,}", *(shown(row, name, "{:,}".format) for row in columns))
        for phase, name in names.items()
    ]
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

{_native(native)}A rollout's time: {spent}. An update takes {ours["update_s"] / ours["rollout_s"]:.0f} times as long as a rollout.

`python -m trainers.sb3_lstm --preset multi` on `open`, {runs[0]["agent_steps"]:,} agent steps, {len(runs)} seeds: \
{reached["sampled"]} of the robots arrive with sampled actions, {reached["mean"]} with the mean action, on \
{runs[0]["episodes"]} fresh episodes each{after}. At Entropy V2's speed these steps take \
{runs[0]["agent_steps"] / V2["both"] / 60:.0f} minutes. The default of `trainers.jax_ppo` reaches as much in the seconds that
stand [above](#what-it-reaches).
{picture("sb3", "Success of recurrent PPO while it trains")}"""


def _native(rows: list[Row]) -> str:
    return "".join(
        f"""`trainers.jax_ppo` with as many robots, epochs and units, two LSTMs and 8 minibatches (a world each) instead of 10. It \
looks back through {row["sequence_length"]} steps, SB3 to the start of the episode.

"""
        for row in rows
    )


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
