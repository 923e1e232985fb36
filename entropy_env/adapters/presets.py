"""Named settings of the adapters: fields of SwarmSpec and SwarmParams, and the name of a `reward` preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # the physics, observed velocity and reward of the older engine on pymunk; its goals and lidar had other scales
    "v2": {
        "drive": "force",
        "dt": 0.05,
        "substeps": 3,
        "velocity_frame": "world",
        "on_goal": "respawn",
        "reward": "v3",
        "max_steps": 500,
    },
}


def with_preset(preset: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a preset, under those that are given, which are not None. ValueError for an unknown one."""
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose from {', '.join(PRESETS)}")
    chosen = {} if preset is None else PRESETS[preset]
    return chosen | {name: value for name, value in given.items() if value is not None}
