"""Two steps into the insides of torch and of glibc, each for a measured gain. Nothing but speed depends on them."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys

import torch
from torch.optim import SGD, Adam, Optimizer


@functools.cache
def leave_out_the_compiler() -> None:
    """Keep torch from importing its compiler with the first optimiser: 1.5 to 2 s of every training.

    torch imports it only to exclude optimisers from compilation (torch/_compile.py, torch/optim/optimizer.py;
    https://github.com/pytorch/pytorch/pull/162595 removed other such imports). Nothing is compiled here, so those
    wrappers are taken off.
    """
    if "torch._dynamo" in sys.modules:
        return
    for method in (Optimizer.add_param_group, Optimizer.zero_grad, Optimizer.state_dict, Optimizer.load_state_dict):
        if plain := getattr(method, "__wrapped__", None):
            setattr(plain, "__dynamo_disable", plain)  # torch's name
    for kind in (Adam, SGD):
        if plain := getattr(kind.step, "__wrapped__", None):
            kind.step = torch.no_grad()(plain)  # type: ignore[method-assign]


def keep_freed_memory() -> None:
    """Let glibc keep freed memory, up to the peak in use, in one arena for all threads.

    By default it returns large blocks to the system and takes them again, zeroed page by page, for the next step's
    activations. Ten steps each of prototypes and MAML on a CPU: 185,000 page faults instead of 480,000 to 700,000.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another libc
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
            mallopt(-8, 1)  # M_ARENA_MAX: those of threads hold no block of more than 64 MiB
