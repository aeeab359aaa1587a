import pytest
import torch
import torchvision

from fewlabel.networks.small import resnet


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 1), ("cifar", 4)])
def test_stems(stem: resnet.Stem, side: int) -> None:
    backbone = resnet.resnet18(stem, seed=0).eval()
    images = torch.randn(2, 3, 32, 32)
    assert backbone(images).shape == (2, 512)
    maps = backbone[: len(backbone) - 2](images)
    assert maps.shape == (2, 512, side, side)


def test_the_imagenet_stem_is_torchvisions_network() -> None:
    """Also in what a seed draws and in the order of the parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        theirs = torchvision.models.resnet18(weights=None)
    theirs.fc = torch.nn.Identity()
    ours = resnet.resnet18("imagenet", seed=5)
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())
    images = torch.randn(4, 3, 64, 64)
    for network in (ours.train(), theirs.train()):
        network(images).square().sum().backward()
    for (name, value), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(
            value.grad, other.grad, rtol=1e-3, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (2, 1), (4, 2)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_small_maps_are_convolved_as_large_ones(
    size: tuple[int, int], stride: int, memory_format: torch.memory_format
) -> None:
    convolution = torch.nn.Conv2d(3, 5, 3, stride, padding=1, bias=False).double().to(memory_format=memory_format)
    maps = torch.randn(4, 3, *size, dtype=torch.double).to(memory_format=memory_format).requires_grad_()
    made, slopes = [], []
    for kind in (torch.nn.Conv2d, resnet.Conv3x3):
        convolution.__class__ = kind
        made.append(convolution(maps))
        slopes.append(torch.autograd.grad(made[-1].sin().sum(), [maps, convolution.weight]))
    torch.testing.assert_close(made[1], made[0])
    torch.testing.assert_close(slopes[1], slopes[0])


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_the_seed_decides(stem: resnet.Stem) -> None:
    one, same, other = (resnet.resnet18(stem, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])
