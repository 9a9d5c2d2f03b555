from __future__ import annotations

from types import SimpleNamespace

import pytest

from serve_apps import device_memory


class NVMLError(Exception):
    pass


def process(pid, held):
    return SimpleNamespace(pid=pid, usedGpuMemory=held)


@pytest.fixture
def on_devices(monkeypatch):
    """Sets what runs on each device."""

    def put(*devices):
        driver = SimpleNamespace(
            NVMLError=NVMLError,
            nvmlDeviceGetCount=lambda: len(devices),
            nvmlDeviceGetHandleByIndex=lambda index: index,
            nvmlDeviceGetComputeRunningProcesses=lambda handle: devices[handle],
        )
        monkeypatch.setattr(device_memory, "_nvml", lambda: driver)
        return driver

    return put


def test_what_the_processes_hold_on_all_devices_is_summed(on_devices):
    on_devices([process(1, 10), process(9, 1000)], [process(1, 5), process(2, 7)])
    assert device_memory.held_bytes({1, 2}) == 22


def test_processes_that_the_driver_does_not_show_hold_nobody_knows_what(on_devices):
    on_devices([process(9, 1000)])
    assert device_memory.held_bytes({1}) is None
    on_devices([process(1, None)])
    assert device_memory.held_bytes({1}) is None


def test_a_driver_that_fails_is_no_zero(on_devices):
    def lost():
        raise NVMLError("the device is lost")

    on_devices([process(1, 10)]).nvmlDeviceGetCount = lost
    assert device_memory.held_bytes({1}) is None


def test_without_a_driver_nothing_is_known(monkeypatch):
    monkeypatch.setattr(device_memory, "_nvml", lambda: None)
    assert device_memory.held_bytes({1}) is None


@pytest.mark.engine
def test_vllms_binding_says_whether_there_is_a_driver(monkeypatch):
    from vllm.third_party import pynvml

    def missing():
        raise pynvml.NVMLError_LibraryNotFound

    device_memory._nvml.cache_clear()
    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert device_memory._nvml() is None
    device_memory._nvml.cache_clear()
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    assert device_memory._nvml() is pynvml
    device_memory._nvml.cache_clear()
