"""Rates from a clock that the test turns."""

import pytest

from nemo_bielik.megatron.throughput import Throughput, in_words


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def run(speed: Throughput, clock: Clock, steps: list[tuple[float, float]], tokens: int = 1000):
    """Take steps of (seconds, seconds of pause after it); return the last figures."""
    figures = {}
    for seconds, pause in steps:
        speed.begin()
        clock.now += seconds
        figures = speed.end(tokens)
        clock.now += pause
    return figures


def test_rates_by_hand(clock):
    """1,000 tokens in 2 s are 500 a second; at 6 MFLOP each 3 GFLOP/s, a quarter of 12."""
    figures = run(Throughput(6e6, peak=12e9, clock=clock), clock, [(2.0, 0.0)] * 3)
    assert figures == {
        "step_seconds": 2.0,
        "tokens_per_second": 500.0,
        "flops_per_second": 3e9,
        "utilisation": 0.25,
    }


def test_without_a_peak_there_is_no_utilisation(clock):
    assert "utilisation" not in run(Throughput(6e6, clock=clock), clock, [(2.0, 0.0)])


def test_pauses_and_single_slow_steps_leave_rates_as_they_are(clock):
    steps = [(9.0, 0.0)] + [(2.0, 0.0)] * 5 + [(2.0, 60.0), (30.0, 0.0)]
    figures = run(Throughput(1.0, clock=clock), clock, steps)
    assert figures["tokens_per_second"] == 500.0
    assert figures["step_seconds"] == 30.0


def test_rates_follow_the_steps_that_are_recent(clock):
    figures = run(Throughput(1.0, clock=clock), clock, [(2.0, 0.0)] * 50 + [(1.0, 0.0)] * 20)
    assert figures["tokens_per_second"] == 1000.0


def test_the_time_left_has_pauses_in_it(clock):
    """Steps of 2 s, and 10 s of validation for each 5 of them: 4 s a step."""
    speed = Throughput(1.0, clock=clock)
    run(speed, clock, ([(2.0, 0.0)] * 4 + [(2.0, 10.0)]) * 4)
    speed.begin()  # the pause after the last step has passed
    assert speed.seconds_left(100) == pytest.approx(100 * (2 + 40 / 20))


def test_words_of_the_bar():
    figures = {"tokens_per_second": 12_345.0, "flops_per_second": 3.21e14, "utilisation": 0.4057}
    said = "12.3 ktokens/s, 321 TFLOP/s (40.6%), 1:01:05 left"
    assert in_words(figures, 3665.2) == said
    del figures["utilisation"]
    assert (
        in_words(figures | {"tokens_per_second": 7.0}, 4) == "7 tokens/s, 321 TFLOP/s, 0:00:04 left"
    )
