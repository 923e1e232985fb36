"""Hooks: callables that `fit` calls after every update. They watch a run, stop it or steer it."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from trainers.run.checkpoint import describe, leaves_by_name
from trainers.track.tracker import Histogram


@dataclasses.dataclass
class Moment:
    """The run after an update, as hooks see it."""

    step: int  # agent steps done
    state: Any  # the learner's; the next update reuses its memory, so copy what you keep
    inputs: Any  # of the next update; a hook may replace them by others of the same shapes, which checkpoints keep
    metrics: dict[str, float]  # a hook may add figures; later hooks see them, and the files get them
    folder: Path = Path()  # of the run
    stopped: str | None = None  # why a hook ends the run here, or None
    interrupted: bool = False  # the run ends here because of Ctrl-C or SIGTERM
    kept_as: str | None = None  # see `keep_as`

    @property
    def ended(self) -> bool:
        """Whether the run ends here, before all steps are done."""
        return self.interrupted or self.stopped is not None

    def stop(self, why: str) -> None:
        """End the run after this update, once it is saved."""
        self.stopped = why

    def keep_as(self, name: str) -> None:
        """Keep a checkpoint of this update in `checkpoints/NAME`, in place of the one there."""
        self.kept_as = name


Hook = Callable[[Moment], None]


@runtime_checkable
class StatefulHook(Protocol):
    """A hook that remembers something which checkpoints shall keep."""

    def __call__(self, moment: Moment) -> None: ...

    def state(self) -> Any:
        """Return all that resuming needs, as JSON can hold it. Called after every update, so keep it small."""

    def restore(self, saved: Any) -> None:
        """Go on from what `state` returned. JSON has made tuples and arrays lists, and keys of dicts strings."""


class Hooks:
    """The hooks of a run, in the order in which they are called, and the latest state of each that has one."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        """Raises TypeError for a state that JSON cannot hold."""
        self._hooks = tuple(hooks)
        self._names = _names(hooks)
        self.states: dict[str, str] = {}  # JSON texts by name
        for hook in self._hooks:
            self._note_state(hook)

    def restore(self, states: Mapping[str, str]) -> None:
        """Hand saved states to the hooks of the same names. Warns of a state that no hook takes."""
        hooks = {self._names[id(hook)]: hook for hook in self._hooks if isinstance(hook, StatefulHook)}
        for name, text in states.items():
            if name in hooks:
                hooks[name].restore(json.loads(text))
                self._note_state(hooks[name])
            else:
                warnings.warn(
                    f"the run had a hook {name}, which this process lacks: its state is dropped", stacklevel=2
                )

    def call(self, moment: Moment) -> BaseException | None:
        """Call all hooks, also those after one that fails. Returns the first error, with notes of the hooks that failed.

        A hook also fails if its state is no JSON, if it adds a figure that is no number or array of numbers, or if it
        replaces inputs by others that do not fit. The inputs and figures are then those from before the call, and so is the
        hook's latest state. Figures that a hook removes stay.
        """
        failure: BaseException | None = None
        for hook in self._hooks:
            leaves, structure = jax.tree.flatten(moment.inputs)
            figures = dict(moment.metrics)
            try:
                hook(moment)
                moment.inputs = fitting(moment.inputs, jax.tree.unflatten(structure, leaves))
                moment.metrics = figures | added_figures(moment.metrics, figures)
                self._note_state(hook)
            except BaseException as error:  # noqa: BLE001 - Ctrl-C, too: the caller raises it, once the run is saved
                moment.inputs, moment.metrics = jax.tree.unflatten(structure, leaves), figures
                raised = f"raised by the hook {self._names[id(hook)]} after {moment.step:,} agent steps"
                if failure is None:
                    failure = error
                else:
                    raised = f"{error!r} {raised}, too"
                failure.add_note(raised)
        return failure

    def _note_state(self, hook: Hook) -> None:
        if isinstance(hook, StatefulHook):
            name, state = self._names[id(hook)], hook.state()
            try:
                self.states[name] = json.dumps(state, default=lambda value: value.tolist())
            except (AttributeError, TypeError, ValueError) as error:
                raise TypeError(f"JSON cannot hold the state of the hook {name}: {error}") from error


def added_figures(metrics: Any, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures that were not there before. Raises TypeError naming one that is no number, nor an array of some."""
    if not isinstance(metrics, Mapping):
        raise TypeError(f"moment.metrics is {metrics!r}: it must stay a dict of figures by name")
    added = {name: figure for name, figure in metrics.items() if name not in before or before[name] is not figure}
    for name, figure in added.items():
        if isinstance(figure, Histogram):
            continue
        try:
            numbers = np.asarray(figure, np.float64)
        except (TypeError, ValueError, OverflowError):
            numbers = None
        if not isinstance(name, str) or numbers is None or isinstance(figure, str | None):
            raise TypeError(f"the figure {name!r} is {figure!r}: it must be a number, or an array of numbers")
    return added


def _names(hooks: Sequence[Hook]) -> dict[int, str]:
    """Name hooks, by id, after their function or class. The second of a name gets `-2`, and so on."""
    names, seen = {}, Counter[str]()
    for hook in hooks:
        name = getattr(hook, "__name__", type(hook).__name__)
        seen[name] += 1
        names[id(hook)] = name if seen[name] == 1 else f"{name}-{seen[name]}"
    return names


def fitting(inputs: Any, before: Any) -> Any:
    """Return inputs with the dtypes of those before. Raises ValueError naming a leaf that does not fit them."""
    structure: Any = jax.tree.structure(inputs)
    if structure != jax.tree.structure(before):
        names, known = leaves_by_name(inputs).keys(), leaves_by_name(before).keys()
        changed = [f"no leaf {name!r}" for name in known - names] + [f"a new leaf {name!r}" for name in names - known]
        raise ValueError(f"the replaced inputs have {', '.join(sorted(changed)) or f'another structure: {structure}'}")
    fitted = []
    for leaf, old in zip(map(jnp.asarray, jax.tree.leaves(inputs)), jax.tree.leaves(before), strict=True):
        if leaf.shape != old.shape or leaf.dtype != old.dtype != jnp.result_type(leaf, old):
            (name, *_) = [name for name, kept in leaves_by_name(before).items() if kept is old]
            raise ValueError(
                f"a hook replaced the inputs' leaf {name!r}, {describe(old)}, by {describe(leaf)}: inputs must keep shape "
                f"and type, or the update would have to be compiled again"
            )
        fitted.append(leaf if leaf.dtype == old.dtype else leaf.astype(old.dtype))
    return jax.tree.unflatten(structure, fitted)
