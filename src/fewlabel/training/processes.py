"""Several processes that share one training, started by ``torchrun``: each takes a part of every step's tasks, and what
they find is averaged, so that together they make one process's step.

They talk by gloo, also on GPUs: half a megabyte a step is averaged, and with gloo a process sees when another is gone.
"""

from __future__ import annotations

import atexit
import os
import sys

import torch
import torch.distributed as dist

from fewlabel.errors import UserError


def join(device: torch.device) -> int:
    """Join the processes that torchrun started; → this one's rank, 0 when it is alone.

    Each gets a GPU, or its share of the machine's cores. Only rank 0 prints.

    Raises:
        UserError: there are more processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0
    rank, local_rank, local_count = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"{local_count} processes for {torch.cuda.device_count()} GPUs: lower --nproc-per-node in launch, or "
                "set device: cpu"
            )
        torch.cuda.set_device(local_rank)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_count))  # torchrun asks for one
    dist.init_process_group("gloo")
    atexit.register(dist.destroy_process_group)
    if rank > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return rank


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def check_share(name: str, tasks: int) -> None:
    """Raises `UserError` unless every process gets as many of a step's tasks: `average` counts processes, not tasks."""
    if tasks % count():
        raise UserError(
            f"{name}: {count()} processes cannot share the tasks of a step evenly, which are {tasks}: start as many "
            "processes as divide them"
        )


def share() -> slice:
    """Which of a step's tasks are this process's."""
    return slice(dist.get_rank(), None, dist.get_world_size()) if dist.is_initialized() else slice(None)


def average(tensors: list[torch.Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in place.

    Raises:
        UserError: another process ended.
    """
    if not dist.is_initialized():
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors]).cpu()
    try:
        dist.all_reduce(flat)
    except RuntimeError as error:
        raise UserError("another process of this training ended; its own message says why") from error
    flat /= dist.get_world_size()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
