"""How likely a model finds each of several continuations of a text: tokens in, log-likelihoods out.

What a text's next words could be is asked of a model as it stands: nothing is generated, nothing
is trained. A prefix is read once for many options: they stand behind it in one row, each at the
place that it would have alone, and a mask keeps them from seeing each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train_lm.trainer import check_length

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ROW = 96  # [tokens] of options behind a prefix, at most, unless one is longer
# [numbers] that a pass predicts, tokens times vocabulary, at most about: what stays in the caches
# of a core, and what fills a GPU.
AT_ONCE, AT_ONCE_ON_GPU = 2**20, 2**26


@dataclass(frozen=True, eq=False)
class Question:
    """A text that could go on in several ways.

    Attributes:
        prefix: (C,) token ids, one at least.
        options: Token ids of each continuation, one at least.

    Raises:
        ValueError: A prefix or an option without a token.
    """

    prefix: Ints
    options: tuple[Ints, ...]

    def __post_init__(self) -> None:
        shortest = min((len(option) for option in self.options), default=1)
        if not len(self.prefix) or not shortest:
            raise ValueError(
                "expected a prefix and options of at least one token, got an empty one: a model "
                "says nothing of what begins nowhere"
            )


def log_likelihoods(
    model: nn.Module, questions: Sequence[Question], device: torch.device | str
) -> list[Floats]:
    """Of each question: (m,) log-likelihood [nats] of each option's tokens after the prefix.

    Args:
        model: A causal model of transformers that takes positions and a mask of its own.

    Raises:
        ValueError: A prefix and its longest option are longer than the model.
    """
    for question in questions:
        longest = max((len(option) for option in question.options), default=1)
        check_length(model, np.zeros((1, len(question.prefix) + longest), dtype=np.int64))
    found = [np.zeros(len(question.options)) for question in questions]
    was_training = model.training
    model.eval()
    config: Any = model.config
    most = AT_ONCE if torch.device(device).type == "cpu" else AT_ONCE_ON_GPU
    with torch.inference_mode():
        for rows in _passes(_rows(questions), most // int(config.vocab_size)):
            for row, values in zip(rows, _of_pass(model, rows, device), strict=True):
                for (i, j), value in zip(row.asked, values, strict=True):
                    found[i][j] = value
    model.train(was_training)
    return found


@dataclass(eq=False)
class _Row:
    """A prefix and some options behind it, perhaps of several questions.

    Attributes:
        asked: (question, option) of each.
    """

    prefix: Ints
    options: list[Ints]
    asked: list[tuple[int, int]]

    @property
    def tokens(self) -> int:
        """Tokens to read; the last one of an option is predicted alone."""
        return len(self.prefix) + sum(len(option) - 1 for option in self.options)


def _rows(questions: Sequence[Question]) -> list[_Row]:
    """Options by prefix, as many in a row as it may hold."""
    rows: list[_Row] = []
    open_rows: dict[bytes, _Row] = {}
    for i, question in enumerate(questions):
        key = question.prefix.tobytes()
        for j, option in enumerate(question.options):
            row = open_rows.get(key)
            if row is None or row.tokens + len(option) > len(row.prefix) + ROW:
                row = open_rows[key] = _Row(question.prefix, [], [])
                rows.append(row)
            row.options.append(option)
            row.asked.append((i, j))
    return rows


def _passes(rows: list[_Row], tokens: int) -> Iterator[list[_Row]]:
    """Rows to read together: about as long, so that little is padded."""
    ordered, begin = sorted(rows, key=lambda row: -row.tokens), 0
    while begin < len(ordered):
        together = max(1, tokens // ordered[begin].tokens)
        yield ordered[begin : begin + together]
        begin += together


def _of_pass(model: nn.Module, rows: list[_Row], device: torch.device | str) -> list[list[float]]:
    longest = max(row.tokens for row in rows)
    ids = np.zeros((len(rows), longest), dtype=np.int64)
    place, part = ids.copy(), np.full_like(ids, -1)  # what pads is no part of anything
    from_row: list[int] = []  # of each predicted token: its row,
    from_at: list[int] = []  # where the prediction stands there,
    token: list[int] = []  # and its id
    for r, row in enumerate(rows):
        end = len(row.prefix)
        ids[r, :end], place[r, :end], part[r, :end] = row.prefix, np.arange(end), 0
        at = end
        for number, option in enumerate(row.options, 1):
            read = len(option) - 1
            here = slice(at, at + read)
            ids[r, here], place[r, here] = option[:-1], end + np.arange(read)
            part[r, here] = number
            from_row += [r] * len(option)
            from_at += [end - 1, *range(at, at + read)]
            token += option.tolist()
            at += read
    read_out: Any = model(
        input_ids=torch.from_numpy(ids).to(device),
        position_ids=torch.from_numpy(place).to(device),
        attention_mask=_mask(torch.from_numpy(part).to(device), model),
        use_cache=False,
    )
    index = torch.tensor([from_row, from_at, token], device=device)
    logits = read_out.logits[index[0], index[1]].float()  # (tokens, V)
    each = logits.log_softmax(-1).gather(-1, index[2][:, None])[:, 0].double().cpu().numpy()
    lengths = [len(option) for row in rows for option in row.options]
    sums = iter(np.add.reduceat(each, np.cumsum([0, *lengths[:-1]])).tolist())
    return [[next(sums) for _ in row.options] for row in rows]


def _mask(part: Tensor, model: nn.Module) -> Tensor:
    """(b, 1, T, T) what is added to attention: a token sees its prefix and its own option so far.

    Args:
        part: (b, T) 0 in the prefix, the number of the option, -1 where nothing stands.
    """
    before = torch.ones(part.shape[1], part.shape[1], dtype=torch.bool, device=part.device).tril()
    seen = before & ((part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None]))
    kind = next(model.parameters()).dtype
    hidden = torch.finfo(kind).min
    return torch.zeros(seen.shape, dtype=kind, device=part.device).masked_fill(~seen, hidden)[
        :, None
    ]
