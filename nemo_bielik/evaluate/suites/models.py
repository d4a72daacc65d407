"""What lm-evaluation-harness asks: a model in this process, or a server that speaks OpenAI's API.

Prompts go through the model's chat template when asked. A server's choices need the
log-probabilities of the prompt's own tokens (``echo`` and ``logprobs`` of ``/v1/completions``);
`Endpoint.missing` says what it lacks for them.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

from nemo_bielik.errors import CheckpointError, ConfigError, ServerError

if TYPE_CHECKING:
    from nemo_bielik.evaluate.language_model import LanguageModel

_RETRIES = 3
_TIMEOUT_SECONDS = 600
_LONGEST_PROMPT_TOKENS = 2**20  # a server knows its own limit and says so
_PROBE = "Ala ma kota, a kot ma Alę."


def load_tokenizer(directory: Path) -> Any:
    """Return a directory's tokenizer, read from its files alone."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{directory}: its tokenizer cannot be read ({reason})") from None


def check_chat(tokenizer: Any, directory: Path) -> None:
    """Raise `ConfigError` if a tokenizer has no chat template."""
    if not tokenizer.chat_template:
        raise ConfigError(
            f"chat: the tokenizer of {directory} has no chat template; leave --chat out for a "
            "base model"
        )


class InProcess(HFLM):  # type: ignore[misc]
    """A model in this process that gives logits only from where a batch's continuations begin.

    lm-eval takes the logarithm of the probabilities at every position of the prompts, [b, s, v]:
    gigabytes with a usual vocabulary, and a good part of a small model's time. It also has a
    question's prompt made into tokens once for each choice; here the last one is remembered.
    """

    _continuation_tokens = 0

    def __init__(self, *args: Any, **named: Any) -> None:
        # two texts: the prompt, and the prompt with a choice
        self._remembered = lru_cache(maxsize=2)(super().tok_encode)
        super().__init__(*args, **named)

    def tok_encode(self, *args: Any, **named: Any) -> list[int]:
        """Return a text's tokens; take the last ones' from memory."""
        found: list[int] = self._remembered(*args, **named)
        return found

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], *args: Any, **named: Any
    ) -> list[tuple[float, bool]]:
        self._continuation_tokens = max((len(ids) for _, _, ids in requests), default=0)
        found: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, *args, **named)
        return found

    def _model_call(self, inps: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        """Return the logits of the last positions, which are all that lm-eval picks from.

        It counts positions from the end, and pads with zeros at the right.
        """
        padding = int((inps.flip(1).cumsum(1) == 0).sum(1).max())
        with torch.inference_mode():
            output = self.model(inps, logits_to_keep=padding + self._continuation_tokens)
        logits: torch.Tensor = output.logits
        return logits


def here(model: "LanguageModel", tokenizer: Any, batch_size: int) -> InProcess:
    """Return an opened model as lm-eval sees it; prompts are cut at its last position."""
    return InProcess(
        pretrained=model.model, tokenizer=tokenizer, backend="causal", batch_size=batch_size
    )


class Endpoint(LocalCompletionsAPI):  # type: ignore[misc]
    """A server's ``/v1/completions``; with a tokenizer, prompts are sent as token ids."""

    def __init__(self, url: str, model: str, tokenizer: Path | None, concurrency: int) -> None:
        self.address = url.rstrip("/")
        adds_bos = False
        if tokenizer is not None:
            own = load_tokenizer(tokenizer)
            adds_bos = own("").input_ids[:1] == [own.bos_token_id]
        super().__init__(
            base_url=f"{self.address}/completions",
            model=model,
            tokenizer=str(tokenizer) if tokenizer else None,
            tokenizer_backend="huggingface" if tokenizer else None,
            add_bos_token=adds_bos,
            **_connection(concurrency),
        )

    def missing(self) -> str:
        """Return what the server lacks for scoring choices; "" if it lacks nothing.

        Raises `ServerError` if it cannot be reached.
        """
        if self.tokenizer is None:
            return "choices on a server need --tokenizer, the directory with the model's tokenizer"
        ids = self.tok_encode(_PROBE)
        try:
            answer = self.model_call([ids], generate=False)
        except requests.HTTPError as error:
            return f"the server refuses to echo prompts with log-probabilities ({error})"
        except (requests.RequestException, ValueError) as error:
            raise unreachable(self.address, error) from None
        try:
            self.parse_logprobs(answer, tokens=[ids], ctxlens=[1])
        except ServerError:
            return "the server does not echo the prompt's log-probabilities"
        return ""

    @staticmethod
    def parse_logprobs(
        outputs: Any,
        tokens: Sequence[Sequence[int]] | None = None,
        ctxlens: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        """Return (log-probability, whether greedy) of each continuation; check the format first."""
        choices = _choices(outputs)
        for choice, ids in zip(choices, tokens or [], strict=False):
            found = choice.get("logprobs") or {}
            for name in ("token_logprobs", "top_logprobs"):
                # one token is generated, because some servers refuse to generate none
                if len(found.get(name) or []) != len(ids) + 1:
                    raise ServerError(
                        f"answer out of format: {name} of {len(found.get(name) or [])} tokens "
                        f"for a prompt of {len(ids)} and one more"
                    )
            # the prompt's first token has no probability, and what follows the prompt is not scored
            scored = list(zip(found["token_logprobs"], found["top_logprobs"], strict=True))[1:-1]
            if not all(_is_scored(*pair) for pair in scored):
                raise ServerError(
                    "answer out of format: token_logprobs must be numbers, top_logprobs objects of "
                    "them"
                )
        parsed: list[tuple[float, bool]] = LocalCompletionsAPI.parse_logprobs(
            outputs, tokens=tokens, ctxlens=ctxlens
        )
        return parsed

    @staticmethod
    def parse_generations(outputs: Any, **kwargs: Any) -> list[str]:
        """Return the written answers; check the format first."""
        return [_text(choice.get("text")) for choice in _choices(outputs)]


class ChatEndpoint(LocalChatCompletion):  # type: ignore[misc]
    """A server's ``/v1/chat/completions``: written answers only."""

    def __init__(self, url: str, model: str, concurrency: int) -> None:
        self.address = url.rstrip("/")
        super().__init__(
            base_url=f"{self.address}/chat/completions",
            model=model,
            tokenizer_backend=None,
            tokenized_requests=False,
            **_connection(concurrency),
        )

    def missing(self) -> str:
        """Return what the server lacks for scoring choices."""
        return "chat endpoints give no log-probabilities of prompts; leave --chat out"

    def parse_generations(self, outputs: Any, **kwargs: Any) -> list[str]:
        """Return the written answers; check the format first.

        A message whose content is null, which the API allows (of a refusal, for example), is an
        empty answer.
        """
        return [_content(choice.get("message")) for choice in _choices(outputs)]


def unreachable(address: str, error: BaseException) -> ServerError:
    """Return what to say of a server that does not answer, or not to this key."""
    reason = str(error).partition("\n")[0][:200] or type(error).__name__
    if _status(error) in (401, 403):
        return ServerError(f"{address}: the server refuses the key ({reason}); set OPENAI_API_KEY")
    return ServerError(f"{address}: the server does not answer ({reason}); start it again")


def is_refusal(error: BaseException) -> bool:
    """Return whether a server answered that it will not answer this, now or later."""
    status = _status(error)
    return status is not None and 400 <= status < 500 and status not in (401, 403, 404, 408, 429)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of aiohttp or requests carries."""
    response = getattr(error, "response", None)
    return getattr(error, "status", None) or getattr(response, "status_code", None)


def _connection(concurrency: int) -> dict[str, Any]:
    return {
        "num_concurrent": concurrency,
        "max_retries": _RETRIES,
        "timeout": _TIMEOUT_SECONDS,
        "max_length": _LONGEST_PROMPT_TOKENS,
    }


def _choices(outputs: Any) -> list[dict[str, Any]]:
    """Return the choices of one answer, or of a list of answers, each answer's by their index."""
    if isinstance(outputs, list):
        return [choice for output in outputs for choice in _choices(output)]
    found = outputs.get("choices") if isinstance(outputs, dict) else None
    if not isinstance(found, list) or not found or not all(isinstance(c, dict) for c in found):
        raise ServerError(f'answer out of format: no "choices" in {str(outputs)[:120]!r}')
    if not all(isinstance(choice.get("index", 0), int) for choice in found):
        raise ServerError(f"answer out of format: no whole number is index in {str(found)[:120]!r}")
    return sorted(found, key=lambda choice: int(choice.get("index", 0)))


def _is_scored(log_prob: Any, top: Any) -> bool:
    """Return whether a token has its log-probability and the likeliest tokens theirs."""
    tops = list(top.values()) if isinstance(top, dict) else []
    return bool(tops) and all(isinstance(value, int | float) for value in (log_prob, *tops))


def _content(message: Any) -> str:
    if not isinstance(message, dict) or "content" not in message:
        raise ServerError(f"answer out of format: its message is {str(message)[:80]!r}")
    return "" if message["content"] is None else _text(message["content"])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ServerError(f"answer out of format: its text is {str(value)[:80]!r}")
    return value
