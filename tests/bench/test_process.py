"""Processes of the bench."""

import os
import signal

from bench.process import catches


def test_a_signal_that_a_process_handles_is_told_from_one_that_it_does_not() -> None:
    former = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        assert catches(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert not catches(os.getpid(), signal.SIGUSR1)
