"""Latencies and throughput as the field defines them, from the times at which tokens came.

The definitions are those of NVIDIA's AIPerf 0.13 (GenAI-Perf before it), with its names in
brackets, and of vLLM's ``vllm bench serve``:

* time to first token (TTFT; ``time_to_first_token``): from the request to the first text;
* request latency (``request_latency``): from the request to the last text;
* time per output token (TPOT; AIPerf calls it ``inter_token_latency``): a request's mean over its
  tokens after the first, (request latency − TTFT) / (output tokens − 1);
* inter-token latency (ITL, as vLLM has it; AIPerf's ``inter_chunk_latency``): every single gap
  between two pieces of streamed text, of all requests together;
* output tokens per second (``output_token_throughput``): all output tokens over the time from the
  first request's start to the last text;
* requests per second (``request_throughput``): likewise.

Percentiles interpolate linearly between ranks, as both tools' do. Times are nanoseconds of one
clock; results are milliseconds and seconds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PERCENTILES = (50, 90, 99)
LATENCIES = ("ttft_ms", "tpot_ms", "itl_ms", "request_latency_ms")
_NS_PER_MS = 1e6


@dataclass(frozen=True)
class RequestTimes:
    """One answered request: when it was sent, when each piece of text came, and token counts.

    `counted_by` says where `output_tokens` is from: the server's ``usage``, the tokenizer, or the
    number of pieces.
    """

    sent_ns: int
    text_ns: tuple[int, ...]
    output_tokens: int
    prompt_tokens: int | None = None
    counted_by: str = "usage"

    @property
    def ttft_ms(self) -> float:
        """Time to first token."""
        return (self.text_ns[0] - self.sent_ns) / _NS_PER_MS

    @property
    def request_latency_ms(self) -> float:
        """Time to the last token."""
        return (self.text_ns[-1] - self.sent_ns) / _NS_PER_MS

    @property
    def tpot_ms(self) -> float | None:
        """Mean time per output token after the first; None if there is only one."""
        if self.output_tokens < 2:
            return None
        return (self.text_ns[-1] - self.text_ns[0]) / _NS_PER_MS / (self.output_tokens - 1)

    @property
    def itl_ms(self) -> list[float]:
        """Every gap between two pieces of text."""
        return [float(gap) / _NS_PER_MS for gap in np.diff(np.asarray(self.text_ns))]


def distribution(values: Iterable[float]) -> dict[str, float] | None:
    """Return the mean and the percentiles of `values`; None if there are none."""
    found = np.asarray(list(values), dtype=np.float64)
    if not found.size:
        return None
    percentiles = np.percentile(found, PERCENTILES)
    named = {f"p{p}": round(float(v), 4) for p, v in zip(PERCENTILES, percentiles, strict=True)}
    return {"mean": round(float(found.mean()), 4), **named}


def seconds_taken(requests: Sequence[RequestTimes]) -> float:
    """Return the time from the first request's start to the last text."""
    start = min(request.sent_ns for request in requests)
    return (max(request.text_ns[-1] for request in requests) - start) / 1e9


def summarize(rounds: Sequence[Sequence[RequestTimes]]) -> dict[str, Any]:
    """Return the figures of several rounds: latencies of all requests together, rates over all.

    The seconds are the sum of the rounds' own, so that pauses between them do not count.
    """
    requests = [request for one in rounds for request in one]
    if not requests:
        return {"requests": 0}
    seconds = sum(seconds_taken(one) for one in rounds if one)
    tokens = sum(request.output_tokens for request in requests)
    prompts = [r.prompt_tokens for r in requests if r.prompt_tokens is not None]
    pieces = sum(len(request.text_ns) for request in requests)
    return {
        "requests": len(requests),
        "seconds": round(seconds, 4),
        "output_tokens": tokens,
        "output_tokens_per_request": round(tokens / len(requests), 2),
        "prompt_tokens_per_request": round(sum(prompts) / len(prompts), 2) if prompts else None,
        "tokens_per_piece": round(tokens / pieces, 4),
        "tokens_counted_by": sorted({request.counted_by for request in requests}),
        "output_tokens_per_second": round(tokens / seconds, 4) if seconds else None,
        "requests_per_second": round(len(requests) / seconds, 4) if seconds else None,
        "ttft_ms": distribution(request.ttft_ms for request in requests),
        "tpot_ms": distribution(t for request in requests if (t := request.tpot_ms) is not None),
        "itl_ms": distribution(gap for request in requests for gap in request.itl_ms),
        "request_latency_ms": distribution(request.request_latency_ms for request in requests),
    }
