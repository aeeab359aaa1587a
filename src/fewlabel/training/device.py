"""The device and its precision: the only module that asks "is there a GPU?" and "does it compute in bfloat16?".

Which GPU is the environment's choice: ``CUDA_VISIBLE_DEVICES``.
"""

from __future__ import annotations

import functools
import os
import platform
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fewlabel.errors import UserError
from fewlabel.training import speedups


def pick(name: str, deterministic: bool = False) -> torch.device:
    """``auto`` (the GPU when there is one), ``cpu`` or ``cuda``. Raises `UserError` when there is no such device.

    Args:
        deterministic: on a GPU, equal runs give equal bytes, which costs speed; on a CPU they do anyway.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device = 'cuda': this machine has no usable CUDA GPU; set device: auto or device: cpu")
    speedups.leave_out_the_compiler()
    if name == "cpu" or not torch.cuda.is_available():
        speedups.keep_freed_memory()
        return torch.device("cpu")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return torch.device("cuda")


@functools.cache
def task_threads() -> ThreadPoolExecutor:
    """One thread a core for work on whole tasks; torch's own operations run on one thread inside each."""
    return ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))


def precision(device: torch.device) -> str:
    """``bf16`` on a GPU that multiplies bfloat16 (since Ampere), else ``fp32``.

    Not on a CPU, though some could: ResNet-18 steps took 168 instead of 216 ms on two idle cores, but several times as
    long beside other work, and a run would give other numbers on the next machine.
    """
    return "bf16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"


def autocast(device: torch.device) -> torch.autocast:
    """A block whose convolutions and matrix products run at `precision`; weights and their updates stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision(device) == "bf16")


def mode(device: torch.device) -> dict[str, Any]:
    """All about the device that a training's numbers depend on: a part of its checkpoint's key."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    return {"device": device.type, "precision": precision(device), "deterministic": deterministic}


def describe(device: torch.device) -> str:
    """What a table prints beside a number: ``NVIDIA H100`` or ``AMD EPYC, 2 cores``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {os.cpu_count()} cores"


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def peak_memory_mib(device: torch.device) -> float:
    """The most memory this process has held, in MiB: of the GPU, or on a CPU of the machine (resident)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def run_facts(device: torch.device, seconds: float, **more: Any) -> dict[str, Any]:
    """What `run.json` holds: how a run went on this machine. Only `compare` reads it, so that equal inputs give equal
    bytes in every other file."""
    return {
        "device": describe(device),
        "precision": precision(device),
        "seconds": round(seconds, 1),
        "peak_memory_mib": round(peak_memory_mib(device)),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),  # importing it takes half a second
        **more,
    }
