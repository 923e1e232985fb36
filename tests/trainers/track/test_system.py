"""What is measured of GPUs, with a driver that is made up."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from trainers.track import system


class NVMLError(Exception):
    """As in pynvml."""


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two GPUs of a machine with four, told apart by their use."""

    def utilization(handle: int) -> SimpleNamespace:
        if driver.silent:
            raise NVMLError
        return SimpleNamespace(gpu=10 * handle)

    driver = SimpleNamespace(
        silent=False, NVMLError=NVMLError, nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index, nvmlDeviceGetHandleByUUID=lambda name: {"GPU-b": 1}[name],
        nvmlDeviceGetUtilizationRates=utilization,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=handle * 2**30),
    )  # fmt: skip
    devices = [SimpleNamespace(platform="gpu", local_hardware_id=i, memory_stats=lambda: None) for i in range(2)]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    system._gpus.cache_clear()
    yield driver
    system._gpus.cache_clear()


@pytest.mark.parametrize(("visible", "share", "used"), [("", 0.05, 1.0), ("2,3", 0.25, 5.0), ("GPU-b,3", 0.2, 4.0)])
def test_use_and_memory_are_those_of_the_gpus_of_this_process(
    visible: str, share: float, used: float, gpus: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    metrics = system.system_metrics()
    assert metrics["system/gpu_utilization"] == pytest.approx(share)
    assert metrics["system/gpu_memory_used"] == pytest.approx(used)


def test_a_driver_that_tells_nothing_costs_nothing(gpus: Any) -> None:
    gpus.silent = True
    assert set(system.system_metrics()) == {"system/cpu_memory", "system/gpu_memory"}


def test_without_a_gpu_nothing_is_asked() -> None:
    system._gpus.cache_clear()
    assert set(system.system_metrics()) == {"system/cpu_memory", "system/gpu_memory"}
