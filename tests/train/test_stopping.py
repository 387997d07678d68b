"""Signals while a training runs."""

from __future__ import annotations

import os
import signal

import pytest

from kdaug.errors import Interrupted
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
