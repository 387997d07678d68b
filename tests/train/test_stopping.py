"""Signals while a training runs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import kdaug as kd
from kdaug.errors import Interrupted
from kdaug.record import Record
from kdaug.train.distributed import World
from kdaug.train.stopping import Stop


def test_a_first_signal_waits_for_the_end_of_a_step_and_a_second_does_not() -> None:
    stop = Stop()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)


def test_one_of_several_processes_is_not_broken_off_by_torchrun_that_says_it_twice() -> None:
    stop = Stop(patient=True)
    with stop.listening(), stop.at_once():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as stopped:
            stop.check()
    assert stopped.value.number == signal.SIGTERM


def test_a_signal_that_comes_while_the_processes_agree_is_not_lost(
    tiny: Path, answers: list[Record], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agree, asked = World.most, list[float]()

    def most(world: World, value: float) -> float:
        agreed = agree(world, value)
        asked.append(value)
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return agreed

    monkeypatch.setattr(World, "most", most)
    with pytest.raises(Interrupted, match=r"step 2 of .* is saved"):
        kd.SFT(epochs=2, batch=1, accumulate=1, length=128).fit(answers, student=tiny, out=out)
    assert (out / "checkpoint.pt").is_file()
