import torch
import torch.nn.functional as F

from fewlabel.networks.small.compact import PATCH, compact, identity_convolution, whitening_filters


def images(count: int = 64) -> torch.Tensor:
    """Noise with neighbours alike, so that there is something to whiten."""
    noise = torch.randn(count, 3, 18, 18, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(noise, 3, stride=1) * torch.tensor([20.0, 40.0, 10.0]).view(3, 1, 1)


def test_the_filters_whiten_the_patches_of_their_images() -> None:
    filters = whitening_filters(images())
    assert filters.shape == (2 * 3 * PATCH**2, 3, PATCH, PATCH)
    found = F.conv2d(images(), filters).transpose(0, 1).flatten(1)
    half = len(filters) // 2
    covariance = found[:half].cov()
    assert torch.allclose(covariance, torch.eye(half), atol=0.05)
    assert torch.allclose(found[half:], -found[:half], atol=1e-6)


def test_the_first_channels_of_a_convolution_copy_its_input() -> None:
    inputs = torch.randn(2, 5, 6, 6)
    outputs = identity_convolution(5, 8)(inputs)
    assert torch.equal(outputs[:, :5], inputs)
    assert not torch.allclose(outputs[:, 5:], inputs[:, :3], atol=0.1)


def test_features_are_of_the_last_group_and_the_first_layer_stays() -> None:
    network = compact((8, 16, 24), 0, images())
    before = network[0].weight.clone()
    found = network(torch.randn(2, 3, 32, 32))
    assert found.shape == (2, 24)
    found.sum().backward()
    assert network[0].weight.grad is None
    assert torch.equal(network[0].weight, before)
    assert compact((8, 16), 0, images(), grid=4)(torch.randn(2, 3, 32, 32)).shape == (2, 16 * 16)


def test_the_weights_follow_the_seed() -> None:
    one, same, other = (compact((32, 8, 8), seed, images())[2][0].weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
