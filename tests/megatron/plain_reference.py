"""The engine's figures computed once more: plain transformers, naive loops, float64."""

import itertools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

END_OF_DOCUMENT = 2


def documents_of(row: Tensor) -> list[int]:
    """Return the number of the document that each token of a packed sequence belongs to."""
    numbers, current = [], 0
    for token in row.tolist():
        numbers.append(current)
        current += token == END_OF_DOCUMENT
    return numbers


def may_see(tokens: Tensor) -> Tensor:
    """Return [b, 1, s, s], True where query row may see key column."""
    batch, length = tokens.shape
    allowed = torch.zeros(batch, 1, length, length, dtype=torch.bool)
    for sequence, row in enumerate(tokens):
        documents = documents_of(row)
        for query in range(length):
            for key in range(query + 1):
                allowed[sequence, 0, query, key] = documents[query] == documents[key]
    return allowed


def position_ids(tokens: Tensor) -> Tensor:
    """Return positions that start again at every document, [b, s]."""
    rows = []
    for row in tokens:
        documents = documents_of(row)
        rows.append([place - documents.index(number) for place, number in enumerate(documents)])
    return torch.tensor(rows)


def counted_tokens(tokens: Tensor) -> Tensor:
    """Return [b, s], 1 where the next token is of the same document."""
    return (tokens != END_OF_DOCUMENT).double()


def load(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float64, attn_implementation="eager"
    )
    return model.eval()


def packed_logits(model: Any, tokens: Tensor) -> Tensor:
    """Return [b, s, vocab] with no document seeing another."""
    blocked = torch.zeros(may_see(tokens).shape, dtype=torch.float64)
    blocked[~may_see(tokens)] = torch.finfo(torch.float64).min
    return model(tokens, attention_mask=blocked, position_ids=position_ids(tokens)).logits


def token_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² · Σ_v p_t (log p_t − log p_s) of every token, [b, s]."""
    wanted = (teacher.double() / temperature).log_softmax(-1)
    given = (student.double() / temperature).log_softmax(-1)
    return temperature**2 * (wanted.exp() * (wanted - given)).sum(-1)


def token_surprise(logits: Tensor, labels: Tensor) -> Tensor:
    """Return −log P(label) of every token, [b, s]."""
    return -logits.double().log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def masked_mean(values: Tensor, tokens: Tensor) -> Tensor:
    counted = counted_tokens(tokens)
    return (values * counted).sum() / counted.sum()


def gradient_norm(model: Any) -> float:
    squares = [p.grad.double().square().sum() for p in model.parameters() if p.grad is not None]
    return float(torch.stack(squares).sum().sqrt())


def segments(row: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the pieces of a packed row, which begin where positions begin again."""
    starts = torch.nonzero(row["position_ids"] == 0).flatten().tolist()
    edges = [*starts, row["position_ids"].numel()]
    return [
        {name: values[start:stop] for name, values in row.items()}
        for start, stop in itertools.pairwise(edges)
    ]


def rows_of(samples: dict[str, Tensor], first: int, last: int) -> list[dict[str, Tensor]]:
    """Return some rows of what `engine_cases.packed_samples` found, one by one."""
    return [{name: values[n] for name, values in samples.items()} for n in range(first, last)]


def unpacked_loss(model: Any, rows: list[dict[str, Tensor]]) -> Tensor:
    """Return the mean surprise of what carries loss, every piece run alone and without padding."""
    total, count = torch.zeros((), dtype=torch.float64), 0.0
    for piece in (piece for row in rows for piece in segments(row)):
        logits = model(piece["tokens"][None]).logits
        surprise = token_surprise(logits, piece["labels"][None])[0]
        total = total + (surprise * piece["loss_mask"]).sum()
        count += float(piece["loss_mask"].sum())
    return total / count


def adamw(model: Any, weight_decay: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """Return an optimizer that decays matrices alone, as Megatron's does."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=betas, eps=1e-8)
