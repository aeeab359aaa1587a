"""Weights as safetensors: tensors by name, and never a pickle."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fewlabel.errors import DamagedFile


def of(network: nn.Module) -> dict[str, Tensor]:
    """A network's weights and buffers, on the CPU."""
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}


def write(path: Path, tensors: dict[str, Tensor], **metadata: str) -> None:
    """Write ``tensors``, and text that travels with them. At most one key of metadata: their order is not fixed."""
    path.write_bytes(safetensors.torch.save(tensors, metadata or None))


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata. Raises `DamagedFile`; `FileNotFoundError` where there is no such file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError) as error:
        raise DamagedFile(path, error) from error


def fill(network: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Give a network the weights read from ``path``. Raises `DamagedFile` when they are another network's."""
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise DamagedFile(path, f"the weights of another network: {error}") from error
