import pytest
import torch
from torch import nn

from fewlabel.errors import DamagedFile
from fewlabel.networks import weights


def test_weights_come_back_with_their_metadata(tmp_path) -> None:
    network = nn.Linear(2, 3)
    weights.write(tmp_path / "x.safetensors", weights.of(network), stem="cifar")
    tensors, metadata = weights.read(tmp_path / "x.safetensors")
    assert metadata == {"stem": "cifar"}
    again = nn.Linear(2, 3)
    weights.fill(again, tensors, "x")
    assert torch.equal(again.weight, network.weight)
    with pytest.raises(DamagedFile, match=r"^x: damaged \(the weights of another network"):
        weights.fill(nn.Linear(3, 3), tensors, "x")


def test_a_damaged_file_is_named(tmp_path) -> None:
    path = tmp_path / "x.safetensors"
    weights.write(path, {"a": torch.ones(3)})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedFile, match=r"x\.safetensors: damaged \(.*`dvc repro` makes it again"):
        weights.read(path)
    with pytest.raises(FileNotFoundError):
        weights.read(tmp_path / "missing.safetensors")
