import torch

from fewlabel.fewshot.distort import affine
from fewlabel.params import Distortion

IMAGES = torch.rand(2, 3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
NONE = {"turn": 0.0, "scale": 0.0, "shear": 0.0, "shift": 0.0}


def distorted(images: torch.Tensor, seed: int = 0, **strength: float) -> torch.Tensor:
    return affine(images, Distortion(**NONE | strength), torch.Generator().manual_seed(seed))


def test_strength_0_is_the_identity_to_the_bit() -> None:
    assert torch.equal(distorted(IMAGES), IMAGES)


def test_no_images_are_no_images() -> None:
    assert distorted(IMAGES[:, :0], turn=10.0).shape == (2, 0, 1, 28, 28)


def test_each_image_is_distorted_by_itself_and_the_same_draws_give_the_same_images() -> None:
    same = IMAGES[:1, :1].expand(2, 3, 1, 28, 28)
    found = distorted(same, turn=10.0, scale=0.1, shear=0.1, shift=0.1)
    assert torch.equal(found, distorted(same, turn=10.0, scale=0.1, shear=0.1, shift=0.1))
    assert not torch.allclose(found[0, 0], found[0, 1])


def test_a_shift_moves_the_ink_by_at_most_its_share_of_the_image() -> None:
    dot = torch.zeros(200, 1, 1, 28, 28)
    dot[..., 13:15, 13:15] = 1
    places = distorted(dot, shift=0.1)[:, 0, 0].flatten(1).argmax(1)
    rows, columns = places // 28, places % 28
    furthest = max((rows - 13.5).abs().max(), (columns - 13.5).abs().max())
    assert 1.5 <= furthest <= 0.1 * 28 + 0.5
