"""A stop request is never lost, whenever it comes."""

import asyncio
import signal
from collections.abc import Iterator

import pytest

from edge_agent.stop import STOP_SIGNALS, StopRequest


@pytest.fixture(autouse=True)
def _signals_stay_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, action in before.items():
        signal.signal(number, action)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_before_the_loop_is_told_to_the_loop(number: int) -> None:
    """Remembered by take_signals, told by forward, once."""
    stop = StopRequest()
    stop.take_signals()
    signal.raise_signal(number)
    signal.raise_signal(signal.SIGTERM)

    async def main() -> int:
        told = asyncio.Event()
        calls: list[asyncio.Event] = []

        def notify() -> None:
            calls.append(told)
            told.set()

        stop.forward(asyncio.get_running_loop(), notify)
        await told.wait()
        return len(calls)

    assert asyncio.run(main()) == 1
    assert stop.requested == number


def test_a_signal_during_the_loop_is_told_once() -> None:
    """Later ones are as good as the first."""
    stop = StopRequest()
    stop.take_signals()

    async def main() -> int:
        told = asyncio.Event()
        calls: list[asyncio.Event] = []

        def notify() -> None:
            calls.append(told)
            told.set()

        stop.forward(asyncio.get_running_loop(), notify)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        await told.wait()
        await asyncio.sleep(0)
        return len(calls)

    assert asyncio.run(main()) == 1
    assert stop.requested == signal.SIGINT


def test_released_signals_do_what_they_usually_do() -> None:
    """Ctrl-C ends `otel-agent check`, also one that came a moment early."""
    stop = StopRequest()
    stop.take_signals()
    stop.release_signals()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    early = StopRequest()
    early.take_signals()
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        early.release_signals()
