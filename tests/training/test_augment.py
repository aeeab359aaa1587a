import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewlabel.training import augment


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 2**31 - 1))
def test_batches_show_every_image_equally_often(n: int, batch_size: int, seed: int) -> None:
    row = torch.cat([augment.batch_indices(n, batch_size, step, seed) for step in range(n)])  # batch_size epochs
    assert row.bincount(minlength=n).tolist() == [batch_size] * n
    for epoch in row.view(batch_size, n):
        assert sorted(epoch.tolist()) == list(range(n))


def test_a_step_has_the_same_batch_whenever_it_is_asked_for() -> None:
    late = augment.batch_indices(100, 7, 50, seed=3)
    assert torch.equal(late, augment.batch_indices(100, 7, 50, seed=3))
    assert not torch.equal(late, augment.batch_indices(100, 7, 50, seed=4))


def test_shift_and_flip_against_a_loop() -> None:
    images = torch.randint(1, 256, (16, 3, 6, 6), dtype=torch.uint8)
    moved = augment.shift_and_flip(images, 2, augment.generator(0))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    seen = set()
    for image, big in zip(moved, padded, strict=True):
        windows = {
            (dy, dx, flip): big[:, dy : dy + 6, dx : dx + 6].flip(-1) if flip else big[:, dy : dy + 6, dx : dx + 6]
            for dy in range(5)
            for dx in range(5)
            for flip in (False, True)
        }
        found = [key for key, window in windows.items() if torch.equal(window, image)]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 8
    assert {flip for _, _, flip in seen} == {False, True}


def test_no_shift_leaves_the_pixels_or_mirrors_them() -> None:
    images = torch.randint(256, (8, 3, 5, 5), dtype=torch.uint8)
    for before, after in zip(images, augment.shift_and_flip(images, 0, augment.generator(1)), strict=True):
        assert torch.equal(before, after) or torch.equal(before.flip(-1), after)


def test_a_crop_of_the_whole_image_is_the_image_or_its_mirror_image() -> None:
    images = torch.rand(8, 3, 10, 10)
    crops = augment.resized_crop_and_flip(images, 10, 1.0, augment.generator(2))
    mirrored = [torch.allclose(c, i.flip(-1), atol=1e-4) for c, i in zip(crops, images, strict=True)]
    same = [torch.allclose(c, i, atol=1e-4) for c, i in zip(crops, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))


def test_crops_lie_within_the_image() -> None:
    ramp = torch.linspace(0, 1, 64).expand(32, 1, 64, 64)  # brightness is the column
    crops = augment.resized_crop_and_flip(ramp, 16, 0.25, augment.generator(3))
    width = (crops.amax((1, 2, 3)) - crops.amin((1, 2, 3))).sort().values
    assert 0.45 <= width[0] < width[-1] <= 1.0  # at least half the side, for a quarter of the area, less half a pixel


def test_to_float() -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1)
    assert augment.to_float(pixels).flatten().tolist() == [-2.0, 2.0]


def test_the_middle_is_seven_eighths_of_the_side() -> None:
    ramp = torch.arange(64).expand(1, 3, 64, 64).to(torch.uint8)  # brightness is the column
    middle = augment.middle(ramp, 56)
    assert middle.shape == (1, 3, 56, 56)
    assert middle[0, 0, 0].tolist() == [float(column) for column in range(4, 60)]
    assert augment.middle(ramp, 28).shape == (1, 3, 28, 28)
