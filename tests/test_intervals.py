import pytest

from fewlabel.intervals import difference_interval, mean_interval, seed_interval, wilson


def test_mean_interval_by_hand() -> None:
    # mean 0.5, sample standard deviation 0.5, n = 3... of 0, 0.5, 1: half width 1.96 x 0.5 / √3
    assert mean_interval([0.0, 0.5, 1.0]) == pytest.approx((0.5, 0.0, 1.0), abs=0.07)
    mean, low, high = mean_interval([0.4, 0.6] * 50)
    assert (mean, high - mean, mean - low) == pytest.approx((0.5, 0.0196990, 0.0196990), abs=1e-6)


def test_difference_interval_by_hand() -> None:
    assert difference_interval([0.0] * 10) == (0.0, 0.0, 0.0)
    assert difference_interval([0.1, -0.1]) == pytest.approx((0.0, -1.96 * 0.1, 1.96 * 0.1))


def test_wilson_known_value() -> None:
    # 146 of 153: the interval published for it is 90.9 to 97.8 %
    assert wilson(146, 153) == pytest.approx((0.954248, 0.9086, 0.9777), abs=2e-4)
    assert wilson(0, 10)[1] == 0.0
    assert wilson(10, 10)[2] == pytest.approx(1.0)


def test_seed_interval_by_hand() -> None:
    # mean 0.5, sample standard deviation 0.1, three seeds: half width 4.303 x 0.1 / √3
    assert seed_interval([0.4, 0.5, 0.6]) == pytest.approx((0.5, 0.251567, 0.748433), abs=1e-4)
    # five seeds, 2.776 x 0.0158114 / √5
    assert seed_interval([0.48, 0.49, 0.5, 0.51, 0.52]) == pytest.approx((0.5, 0.480371, 0.519629), abs=1e-4)
