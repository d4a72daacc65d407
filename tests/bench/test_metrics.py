"""Latencies by hand, from event lists small enough to do so."""

import pytest

from nemo_bielik.bench.metrics import RequestTimes, distribution, seconds_taken, summarize

MS = 1_000_000


def request(sent_ms: float, *text_ms: float, tokens: int | None = None) -> RequestTimes:
    times = tuple(round(t * MS) for t in text_ms)
    return RequestTimes(round(sent_ms * MS), times, tokens or len(times), 5)


def test_one_request_by_hand() -> None:
    one = request(1000, 1200, 1250, 1310, 1350)
    assert one.ttft_ms == 200
    assert one.request_latency_ms == 350
    assert one.tpot_ms == 50  # (350 − 200) / 3
    assert one.itl_ms == [50, 60, 40]


def test_tokens_not_pieces_divide_the_time_per_token() -> None:
    bundled = request(0, 100, 200, tokens=11)  # eleven tokens in two pieces
    assert bundled.tpot_ms == 10  # (200 − 100) / 10
    assert bundled.itl_ms == [100]


def test_a_single_token_has_no_time_per_token() -> None:
    only = request(0, 30)
    assert only.tpot_ms is None and only.itl_ms == [] and only.ttft_ms == 30
    figures = summarize([[only]])
    assert figures["tpot_ms"] is None and figures["itl_ms"] is None


def test_percentiles_interpolate_between_ranks() -> None:
    # ranks 0 … 10: p50 is rank 5, p90 rank 9, p99 nine tenths from rank 9 to 10
    found = distribution([float(v) for v in (100, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0)])
    assert found == {"mean": pytest.approx(145 / 11, abs=1e-4), "p50": 5, "p90": 9, "p99": 90.9}
    assert distribution([]) is None


def test_throughput_is_tokens_over_the_time_from_first_start_to_last_text() -> None:
    first = request(0, 100, 150, 200)
    second = request(50, 300, 400, 500)
    assert seconds_taken([first, second]) == 0.5
    figures = summarize([[first, second]])
    assert figures["output_tokens_per_second"] == 12  # 6 tokens in 0.5 s
    assert figures["requests_per_second"] == 4
    assert figures["prompt_tokens_per_request"] == 5


def test_pauses_between_rounds_do_not_count() -> None:
    early, late = request(0, 100, 200), request(60_000, 60_100, 60_200)
    assert summarize([[early], [late]])["output_tokens_per_second"] == 10  # 4 tokens in 2 × 0.2 s


def test_gaps_of_all_requests_stand_together_while_times_per_token_are_one_a_request() -> None:
    long = request(0, 0, 10, 20, 30, 40)  # four gaps of 10
    short = request(0, 0, 60)  # one of 60
    figures = summarize([[long, short]])
    assert figures["itl_ms"]["mean"] == 20  # (4 · 10 + 60) / 5
    assert figures["tpot_ms"]["mean"] == 35  # (10 + 60) / 2


def test_nothing_measured_says_so() -> None:
    assert summarize([]) == summarize([[]])
    assert summarize([])["requests"] == 0
