"""The accelerator and the precision: the only module that asks "is there a GPU?", "does it compute in bfloat16?"."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

import torch

from fewlabel.errors import UserError

_full = False  # float32 was asked for


def pick(name: str, precision: str = "auto") -> torch.device:
    """``auto`` (the GPU when there is one), ``cpu`` or ``cuda``. Raises `UserError` when there is no such device.

    Args:
        precision: of this process from now on: ``auto`` or ``fp32``, see `precision`.
    """
    global _full
    _full = precision == "fp32"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device = 'cuda': this machine has no usable CUDA GPU; set device: auto or device: cpu")
    use_cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    if use_cuda:
        torch.set_float32_matmul_precision("high")  # TF32 matrix products: no loss seen in accuracy, far faster
    return torch.device("cuda" if use_cuda else "cpu")


def precision(device: torch.device) -> str:
    """``bf16`` where the hardware multiplies bfloat16 (a GPU since Ampere, a CPU with AVX-512 BF16), else ``fp32``.

    On two idle cores a training step of ResNet-18 takes 168 instead of 232 ms that way. Beside other work it takes
    several times as long, as the threads of those kernels wait for each other spinning: `pick` with ``fp32`` then.
    """
    if _full:
        return "fp32"
    return "bf16" if _multiplies_bfloat16(device) else "fp32"


@functools.cache
def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return "avx512_bf16" in _cpuinfo("flags").split()


def autocast(device: torch.device) -> torch.autocast:
    """A block whose convolutions and matrix products run at `precision`; weights and their updates stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision(device) == "bf16")


def describe(device: torch.device) -> str:
    """What a table prints beside a number: ``NVIDIA H100`` or ``AMD EPYC, 2 cores``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {os.cpu_count()} cores"


def peak_memory_mib(device: torch.device) -> float | None:
    """Peak GPU memory of this process in MiB; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    """What Linux says of the first core; empty elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
    return ""
