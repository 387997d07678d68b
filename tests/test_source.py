"""Sources: what the next job gets."""

from __future__ import annotations

from random import Random

import pytest

from kdaug.record import Record, user
from kdaug.source import Each, GrowingPool, hold_out

SEEDS = [Record(prompt=user(f"seed {i}")) for i in range(20)]


def grown(i: int) -> Record:
    return SEEDS[i % 20].child(by="g", prompt=user(f"grown {i}"))


def test_each_gives_every_seed_once_and_can_start_again() -> None:
    source = Each(SEEDS[:3])
    for _ in range(2):
        live = source.start()
        drawn = [live.draw(Random(0)) for _ in range(4)]
        assert drawn == [(SEEDS[0],), (SEEDS[1],), (SEEDS[2],), None]


@pytest.mark.parametrize(("machine_made", "seeds_shown"), [(0, 8), (1, 7), (2, 6), (5, 6)])
def test_a_pool_shows_eight_demonstrations_of_which_two_are_grown(machine_made: int, seeds_shown: int) -> None:
    live = GrowingPool(SEEDS).start()
    for i in range(machine_made):
        live.accept(grown(i))
    drawn = live.draw(Random(1))
    assert drawn is not None
    assert len(drawn) == len({r.id for r in drawn}) == 8
    assert sum(r.by == "seed" for r in drawn) == seeds_shown


def test_a_pool_never_mixes_held_out_seeds_with_others() -> None:
    held_out = hold_out(SEEDS, 0.25)
    live = GrowingPool(SEEDS).start(held_out)
    sides = []
    for i in range(300):
        drawn = live.draw(Random(i))
        assert drawn is not None
        side = {root in held_out for r in drawn for root in (r.roots or (r.id,))}
        assert len(side) == 1
        sides.append(side.pop())
        live.accept(drawn[0].child(*drawn[1:], by="g", prompt=user(f"made {i}")))
    assert 0.15 < sum(sides) / len(sides) < 0.35


@pytest.mark.parametrize(("share", "number"), [(0.0, 0), (0.01, 1), (0.1, 2), (0.5, 10), (0.99, 19)])
def test_hold_out_takes_a_share_at_least_one_never_all(share: float, number: int) -> None:
    held = hold_out(SEEDS, share)
    assert len(held) == number
    assert held == hold_out(SEEDS[::-1], share)
    assert held <= {s.id for s in SEEDS}


def test_seeds_with_ancestors_are_held_out_by_these() -> None:
    family = [SEEDS[0].child(by="g", prompt=user(f"child {i}")) for i in range(5)]
    held = hold_out([*family, SEEDS[1]], 0.5)
    assert len(held) == 1
    assert held <= {SEEDS[0].id, SEEDS[1].id}
    live = GrowingPool([*family, SEEDS[1]]).start(held)
    for i in range(20):
        drawn = live.draw(Random(i))
        assert drawn is not None
        assert len({(r.roots or (r.id,))[0] for r in drawn}) == 1
