"""Devices: there, or refused with the setting named."""

from __future__ import annotations

import pytest
import torch

from mec.devices import find_device
from mec.errors import ConfigError


def test_the_cpu_is_always_here() -> None:
    assert find_device("cpu", "train.device") == torch.device("cpu")


@pytest.mark.parametrize(("num_devices", "name"), [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1")])
def test_an_absent_device_is_refused(monkeypatch: pytest.MonkeyPatch, num_devices: int, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_devices)
    with pytest.raises(ConfigError, match=f"train.device={name}: .*found: {num_devices} CUDA devices; fix: set train"):
        find_device(name, "train.device")


def test_a_present_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cuda:1", "train.device") == torch.device("cuda", 1)
    assert find_device("cuda", "train.device").type == "cuda"
