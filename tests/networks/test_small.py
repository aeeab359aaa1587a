from pathlib import Path

import pytest
import torch

from fewlabel.errors import DamagedFile
from fewlabel.networks import small, weights


@pytest.mark.parametrize("name", ["compact-8-16-24", "resnet18-cifar"])
def test_saved_and_loaded_whole_or_in_part(name: str, tmp_path: Path) -> None:
    backbone = small.create(name, 3, torch.randn(8, 3, 16, 16)).eval()
    weights.write(tmp_path / "a", weights.of(backbone))
    images, width = torch.randn(2, 3, 16, 16), small.widths(name)[1]
    torch.testing.assert_close(small.load(tmp_path / "a", name).eval()(images), backbone(images))
    part = small.load(tmp_path / "a", name, groups=2).eval()
    maps = backbone[: len(part) - 2](images)
    torch.testing.assert_close(part(images), maps.amax((-2, -1)) if "compact" in name else maps.mean((-2, -1)))
    assert small.load(tmp_path / "a", name, groups=2, grid=2)(images).shape == (2, width * 4)


def test_a_network_of_other_widths_is_refused(tmp_path: Path) -> None:
    weights.write(tmp_path / "a", weights.of(small.create("compact-8-16-24", 0)))
    with pytest.raises(DamagedFile, match="another network"):
        small.load(tmp_path / "a", "compact-8-16-25")
