"""Intervals against figures worked out elsewhere."""

from __future__ import annotations

import pytest

from kdaug.intervals import bootstrap, bootstrap_ratio, wilson


def test_wilsons_interval_is_the_textbooks() -> None:
    # Brown, Cai and DasGupta 2001 give (0.0, 0.278) for 0 of 10; 81 of 263 is Newcombe's (1998) example.
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_a_bootstrap_is_the_same_for_a_seed_and_spans_what_it_should() -> None:
    values = [
        float(n % 10) for n in range(400)
    ]  # mean 4.5, standard deviation 2.872: 1.96 errors of the mean are 0.281
    low, high = bootstrap_ratio(values, [1.0] * 400)
    assert (low, high) == pytest.approx((4.22, 4.78), abs=0.05)
    assert (low, high) == bootstrap_ratio(values, [1.0] * 400)
    assert (low, high) != bootstrap_ratio(values, [1.0] * 400, seed=1)
    assert (low, high) == pytest.approx(bootstrap(values, lambda some: sum(some) / len(some)), abs=0.05)


def test_a_ratio_is_resampled_case_by_case_so_one_heavy_case_widens_it() -> None:
    sums, weights = [1.0] * 50 + [500.0], [1.0] * 50 + [100.0]
    low, high = bootstrap_ratio(sums, weights)
    assert low == 1.0 and high > 4.0
