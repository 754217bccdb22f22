"""The device setting, looked up on this machine."""

from __future__ import annotations

import torch

from mec.errors import ConfigError


def find_device(name: str, setting: str) -> torch.device:
    """The device of a setting.

    Args:
        name: ``cpu``, ``cuda`` or ``cuda:N``.
        setting: Dotted name of the setting, for the message.

    Raises:
        ConfigError: This machine, or this build of torch, does not have it.
    """
    device = torch.device(name)
    num_devices = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type == "cuda" and (device.index or 0) >= num_devices:
        raise ConfigError(
            f"{setting}={name}: there is no such device here",
            found=f"{num_devices} CUDA devices",
            fix=f"set {setting}=cpu, or run on a machine with a GPU and a CUDA build of torch",
        )
    return device
