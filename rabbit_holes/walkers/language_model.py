"""A causal language model as a walker needs it: score titles, or go on in its own words.

The door of this package to transformers. The keys and values of a prompt are computed once and
shared by all the titles that may follow it, which is what makes choosing among many links cheap.
Models that keep none, or for which that gives other numbers, read every prompt anew. Titles and
questions are text, whatever they spell out. It knows no world and no path.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rabbit_holes.walkers.prompts import Prompt
from train_lm.plain_text import visible

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Tokens = list[int]
Row = tuple[int, Tokens]  # which prompt, and an answer to it
# Gives log-probabilities (B, V) and is sent the B tokens that were chosen.
Reader = Generator[Any, list[int], None]

MEMORY = 2**29  # [bytes] that shared prompts, or logits, may take at once
ROWS = 256  # [answers] at once at most; more only leave the processor's caches
# Of a directory that brings a tokenizer, of whatever age and make.
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "*.model")
SHORTEST_PROMPT = 8  # [tokens] with less room than this no walk can be told


@dataclass
class LanguageModel:
    """A model with its tokenizer.

    Attributes:
        name: As recorded in a path.
        model: Any `transformers` causal LM in evaluation mode.
        tokenizer: A `transformers` tokenizer.
        sha256: Of what it was opened from, a directory or what the hub gave; may be empty.
    """

    name: str
    model: Any
    tokenizer: Any
    sha256: str = ""

    @property
    def chats(self) -> bool:
        """Whether it wants to be asked rather than continued."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @cached_property
    def context(self) -> int:
        """[tokens] that fit; a large number where the model states no limit."""
        stated = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if stated is None or stated < 1:
            return 2**20
        # RoBERTa and its kin begin to count positions behind that of padding.
        unused = [
            module.padding_idx + 1
            for name, module in self.model.named_modules()
            if name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ]
        return int(stated) - max(unused, default=0)

    @cached_property
    def _accepts(self) -> frozenset[str]:
        """What its `forward` takes by name."""
        return frozenset(inspect.signature(self.model.forward).parameters)

    @cached_property
    def caches(self) -> bool:
        """Whether going on from a cached prompt gives what reading all of it anew gives.

        That is tried and not looked up: how positions are counted, padding is hidden and the past
        is kept is each architecture's own affair, and some keep nothing.
        """
        if "past_key_values" not in self._accepts:
            return False
        import torch

        n = self.model.get_input_embeddings().num_embeddings
        ids = [(n // 2 + 3 * i) % n for i in range(10)]
        prompts = [ids[:2], ids[2:7]]
        rows = [(0, ids[7:8]), (0, ids[6:8]), (1, ids[7:10])]
        with torch.inference_mode():
            cache, *_ = self._read(prompts)
            layers = getattr(cache, "layers", None)
            # Layers that keep a running state, not keys and values, cannot be shared.
            if not layers or not all(hasattr(own, "batch_select_indices") for own in layers):
                return False
            found = self._score_from_cache(prompts, rows)
            expected = self._score_anew(prompts, rows)
        tolerance = torch.finfo(self.model.dtype).eps ** 0.5 * np.abs(expected).max()
        return bool((np.abs(found - expected) <= tolerance).all())

    @cached_property
    def _titles(self) -> dict[tuple[str, bool], Tokens]:
        return {}

    @property
    def _ends(self) -> set[int]:
        ids = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        ids = ids if isinstance(ids, list) else [ids]
        return {int(i) for i in (*ids, self.tokenizer.eos_token_id) if i is not None}

    def title_tokens(self, title: str, chat: bool) -> Tokens:
        """Tokens of a title as an answer, with what ends the answer; tokenised once per title."""
        key = (title, chat)
        if key not in self._titles:
            # What stands before decides how the first word is cut, in some tokenizers.
            seen = visible(title) or "?"
            before, answer = ("\n", seen) if chat else (">", f" {seen} >")
            ids = self._encode(before + answer)[len(self._encode(before)) :]
            ends = sorted(self._ends)[:1] if chat else []
            self._titles[key] = [*ids, *ends]
        return self._titles[key]

    def prompt_tokens(
        self, trail: Sequence[str], prompt_of: Callable[[Sequence[str]], Prompt], room: int
    ) -> Tokens:
        """Tokens of a prompt that leaves `room` tokens for the answer.

        Where a walk is too long for the model, its earliest pages are left out; where one page is,
        a plain prompt loses its beginning.

        Raises:
            ValueError: If the model's context is too short for that.
        """
        limit = self.context - room
        if limit < SHORTEST_PROMPT:
            raise ValueError(
                f"expected a context of {room + SHORTEST_PROMPT} tokens or more, got "
                f"{self.context} from {self.name} (its config.json): titles alone take up to {room}"
            )
        tokens: Tokens = []
        for first in range(len(trail)):
            prompt = prompt_of(trail[first:])
            tokens = self._prompt(prompt)
            if len(tokens) <= limit:
                return tokens
        if prompt.is_chat:
            raise ValueError(
                f"expected a context of {len(tokens) + room} tokens or more, got {self.context} "
                f"from {self.name}: its chat template and the links do not fit; offer fewer links"
            )
        return tokens[-limit:]

    def _prompt(self, prompt: Prompt) -> Tokens:
        if prompt.is_chat:
            return self._question(prompt.text)
        start = self.tokenizer.bos_token_id
        return [*([] if start is None else [start]), *self._encode(prompt.text)]

    def _question(self, text: str) -> Tokens:
        """A question in the chat template, whose special tokens are tokens; those of `text` not."""
        if not any(token in text for token in self._special.values()):
            return self._cut(self._in_template(text), as_text=False)
        mark = next(chr(c) for c in range(0xE000, 0xF8FF) if chr(c) not in text)  # private use
        first, *others = self._in_template(mark).split(mark)
        tokens = self._cut(first, as_text=False)
        for part in others:
            tokens += [*self._encode(text), *self._cut(part, as_text=False)]
        return tokens

    def _in_template(self, text: str) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,  # templates that know no thinking ignore it
            )
        )

    @cached_property
    def _special(self) -> dict[int, str]:
        """Spelling of each special token by its id; what stands for unknown words is none."""
        found = {i: t.content for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}
        named = dict(
            zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=True)
        )
        return {i: t for i, t in (found | named).items() if i != self.tokenizer.unk_token_id}

    def _encode(self, text: str) -> Tokens:
        """Text as text, also where it spells out a special token."""
        ids = self._cut(text, as_text=True)
        if not self._special.keys() & set(ids):
            return ids
        # A vocabulary that lists its special tokens among the words finds them all the same.
        spelt = "|".join(map(re.escape, sorted(self._special.values(), key=len, reverse=True)))
        ids = []
        for part in re.split(f"({spelt})", text):
            pieces = part if part in self._special.values() else [part]
            ids += [i for piece in pieces if piece for i in self._cut(piece, as_text=True)]
        return ids

    def _cut(self, text: str, as_text: bool) -> Tokens:
        cut = self.tokenizer(text, add_special_tokens=False, split_special_tokens=as_text)
        return list(cut["input_ids"])

    def score(
        self, prompts: Sequence[Tokens], answers: Sequence[Sequence[Tokens]]
    ) -> list[NDArray[np.float64]]:
        """Mean log-probability [nats per token] of each answer after its prompt.

        Args:
            prompts: B prompts.
            answers: For each of them any number of answers, none empty.

        Returns:
            B arrays with one number per answer.
        """
        import torch

        rows = [(b, answer) for b, options in enumerate(answers) for answer in options]
        with torch.inference_mode():
            score = self._score_from_cache if self.caches else self._score_anew
            flat = score(prompts, rows)
        ends = np.cumsum([len(options) for options in answers])
        return np.split(flat, ends[:-1])

    def _score_anew(self, prompts: Sequence[Tokens], rows: Sequence[Row]) -> NDArray[np.float64]:
        """Without a cache, without padding and without a word on positions: any model's own way."""
        import torch

        whole = [[*prompts[b], *answer] for b, answer in rows]
        flat = np.empty(len(rows))
        for part in self._of_equal_length(whole):
            ids = torch.tensor([whole[i] for i in part])
            chances = self._forward_anew(ids).logits.float().log_softmax(-1).cpu()
            each = chances[:, :-1].gather(2, ids[:, 1:, None])[:, :, 0]
            for own, i in zip(each, part, strict=True):
                flat[i] = float(own[-len(rows[i][1]) :].double().mean())
        return flat

    def _after(self, whole: Sequence[Tokens]) -> Any:
        """Log-probabilities (B, V) after each sequence, read anew."""
        import torch

        after: list[Any] = [None] * len(whole)
        for part in self._of_equal_length(whole):
            ids = torch.tensor([whole[i] for i in part])
            logits = self._forward_anew(ids, last_only=True).logits[:, -1]
            for i, own in zip(part, logits.float().log_softmax(-1), strict=True):
                after[i] = own
        return torch.stack(after)

    def _of_equal_length(self, whole: Sequence[Tokens]) -> Iterator[list[int]]:
        """Places of sequences that are read together; few enough to fit into `MEMORY`."""
        order = sorted(range(len(whole)), key=lambda i: len(whole[i]))
        vocabulary = self.model.get_input_embeddings().num_embeddings
        for length, group in groupby(order, key=lambda i: len(whole[i])):
            places = list(group)
            at_once = max(1, min(ROWS, MEMORY // (8 * vocabulary * length)))
            for begin in range(0, len(places), at_once):
                yield places[begin : begin + at_once]

    def _score_from_cache(
        self, prompts: Sequence[Tokens], rows: Sequence[Row]
    ) -> NDArray[np.float64]:
        shared, first, lengths = self._read(prompts)
        sizes = np.array([len(answer) for _, answer in rows])
        at_once = self._rows_at_once(max(lengths), int(sizes.max()))
        flat = np.empty(len(rows))
        # Answers of like length together, so that little of a batch is padding.
        order = np.argsort(sizes, kind="stable")
        for begin in range(0, len(rows), at_once):
            part = order[begin : begin + at_once]
            flat[part] = self._score_rows(shared, first, lengths, [rows[i] for i in part])
        return flat

    def _read(self, prompts: Sequence[Tokens]) -> tuple[Any, Any, list[int]]:
        """Cache of B left-padded prompts, log-probabilities (B, V) after them, their lengths."""
        import torch

        lengths = [len(prompt) for prompt in prompts]
        width = max(lengths)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        seen = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            seen[row, width - len(prompt) :] = 1
        out = self._forward(ids, seen, (seen.cumsum(1) - 1).clamp(min=0), None, last_only=True)
        cache = getattr(out, "past_key_values", None)
        return cache, out.logits[:, -1].float().log_softmax(-1), lengths

    def _score_rows(
        self, shared: Any, first: Any, lengths: list[int], rows: Sequence[Row]
    ) -> NDArray[np.float64]:
        import torch

        width = max(lengths)
        owner = torch.tensor([b for b, _ in rows])
        sizes = torch.tensor([len(answer) for _, answer in rows])
        longest = int(sizes.max())
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for row, (_, answer) in enumerate(rows):
            ids[row, : len(answer)] = torch.tensor(answer)
        total = first.cpu()[owner, ids[:, 0]]
        if longest > 1:
            before = torch.tensor(lengths)[owner]
            pad = torch.arange(width)[None] >= (width - before)[:, None]
            seen = torch.cat([pad.long(), torch.ones(len(rows), longest - 1, dtype=torch.long)], 1)
            places = before[:, None] + torch.arange(longest - 1)[None]
            cache = _selected(shared, owner.to(self.model.device))
            # Padding to the right needs no mask: nothing that counts looks at it.
            out = self._forward(ids[:, :-1], seen, places, cache)
            logits = out.logits.float().cpu()
            each = logits.gather(2, ids[:, 1:, None])[:, :, 0] - logits.logsumexp(-1)
            inside = torch.arange(1, longest)[None] < sizes[:, None]
            total = total + (each * inside).sum(1)
        return (total / sizes).double().numpy()

    def go_on(
        self,
        prompts: Sequence[Tokens],
        rngs: Sequence[np.random.Generator],
        temperature: float,
        at_most: int,
    ) -> list[str]:
        """What the model says after each prompt, up to an end, a new line or `at_most` tokens.

        Args:
            rngs: One per prompt, so that no prompt's words depend on its neighbours'.
            temperature: 0 always takes the likeliest token.
        """
        import torch

        said: list[Tokens] = [[] for _ in prompts]
        ended = [False] * len(prompts)
        with torch.inference_mode():
            reader = self._from_cache(prompts) if self.caches else self._anew(prompts)
            after = next(reader)
            for step in range(at_most):
                scores = after.double().cpu().numpy()
                chosen = [draw(s, temperature, rng) for s, rng in zip(scores, rngs, strict=True)]
                for row, token in enumerate(chosen):
                    if not ended[row]:
                        said[row].append(token)
                        ended[row] = token in self._ends or self._closes(said[row])
                if all(ended) or step == at_most - 1:
                    break
                after = reader.send(chosen)
        return [self.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in said]

    def _from_cache(self, prompts: Sequence[Tokens]) -> Reader:
        import torch

        cache, after, lengths = self._read(prompts)
        width = max(lengths)
        before = torch.tensor(lengths)
        seen = (torch.arange(width)[None] >= (width - before)[:, None]).long()
        for step in count():
            chosen = yield after
            seen = torch.cat([seen, torch.ones(len(prompts), 1, dtype=torch.long)], 1)
            ids = torch.tensor(chosen)[:, None]
            out = self._forward(ids, seen, (before + step)[:, None], cache)
            cache, after = out.past_key_values, out.logits[:, -1].float().log_softmax(-1)

    def _anew(self, prompts: Sequence[Tokens]) -> Reader:
        whole = [list(prompt) for prompt in prompts]
        while True:
            chosen = yield self._after(whole)
            for own, token in zip(whole, chosen, strict=True):
                own.append(token)

    def _closes(self, said: Tokens) -> bool:
        """Whether the latest token ends a line or begins the next page of a walk."""
        text = self.tokenizer.decode(said[-1:])
        return ("\n" in text or ">" in text) and bool(self.tokenizer.decode(said[:-1]).strip())

    def _forward(
        self, ids: Any, seen: Any, places: Any, cache: Any, last_only: bool = False
    ) -> Any:
        device = self.model.device
        extra = {"position_ids": places.to(device)} if "position_ids" in self._accepts else {}
        if last_only:
            extra |= self._last_only
        return self.model(
            input_ids=ids.to(device),
            attention_mask=seen.to(device),
            past_key_values=cache,
            use_cache=True,
            **extra,
        )

    def _forward_anew(self, ids: Any, last_only: bool = False) -> Any:
        extra: dict[str, Any] = self._last_only if last_only else {}
        if "use_cache" in self._accepts:
            extra = {**extra, "use_cache": False}
        return self.model(input_ids=ids.to(self.model.device), **extra)

    @property
    def _last_only(self) -> dict[str, Any]:
        return {"logits_to_keep": 1} if "logits_to_keep" in self._accepts else {}

    def _rows_at_once(self, prompt: int, answer: int) -> int:
        """How many answers fit into `MEMORY` together; decides speed alone."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head = getattr(config, "head_dim", None)
        head = head or config.hidden_size // config.num_attention_heads
        cell = self.model.dtype.itemsize
        cache = 2 * config.num_hidden_layers * heads * head * cell * (prompt + answer)
        logits = 8 * config.vocab_size * answer
        return max(1, min(ROWS, MEMORY // max(cache, logits)))


def load_language_model(
    place: str, *, device: str | None = None, tokenizer: Tokenizer | None = None
) -> LanguageModel:
    """Open a causal LM.

    Args:
        place: A directory that `from_pretrained` opens, or a hub id.
        device: Where it runs; by default a GPU if there is one.
        tokenizer: What to use where `place` is a directory without a tokenizer, such as the
            tokenizer of the world that the model was trained on.

    Raises:
        ValueError: If there is no such model, it is more than data (see `opened_as_data`), or it
            and its tokenizer do not fit together.
    """
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoTokenizer,
        PreTrainedTokenizerFast,
    )

    from train_lm.checked.model_folder import (
        check_finite,
        check_sizes,
        note_model,
        opened_as_data,
    )
    from train_lm.model import PRESETS

    folder = Path(place)
    if place in PRESETS and not folder.is_dir():
        raise ValueError(
            f"expected a trained model, got the preset {place!r}, which has no weights yet: train "
            "it with `train-lm run` and name the directory"
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if device == "cpu" else "auto"
    own = not folder.is_dir() or any(next(folder.glob(form), None) for form in TOKENIZER_FILES)
    if not own and tokenizer is None:
        raise ValueError(f"expected a tokenizer in {place}, found none")
    as_data = opened_as_data(place)
    try:
        check_sizes(place, AutoConfig, AutoModelForCausalLM, as_data)
        model: Any = AutoModelForCausalLM.from_pretrained(
            place, dtype=dtype, use_safetensors=True, **as_data
        )
        if own:
            cut: Any = AutoTokenizer.from_pretrained(place, **as_data)
        else:
            cut = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
        _try_out(cut)
    except Exception as error:  # transformers raises whatever its file formats raise
        why = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise ValueError(f"expected a causal language model at {place}, got: {why}") from None
    check_finite(model, place)
    rows = model.get_input_embeddings().num_embeddings
    if len(cut) > rows:
        raise ValueError(
            f"expected a tokenizer of at most {rows} tokens for {place}, got {len(cut)}: model and "
            "tokenizer are of different make"
        )
    model = model.to(device).eval()
    if not _is_causal(model):
        raise ValueError(
            f"expected a causal language model at {place}, got one whose words depend on what "
            "follows them: it cannot be asked what comes next"
        )
    name = folder.resolve().name if folder.is_dir() else place
    return LanguageModel(name, model, cut, note_model(place))


def _try_out(tokenizer: Any) -> None:
    """Cut a text and fill in the chat template; what is wrong with either shows here."""
    tokenizer("a", add_special_tokens=False, split_special_tokens=True)
    if getattr(tokenizer, "chat_template", None):
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)


def _is_causal(model: Any) -> bool:
    """Whether another last token leaves alone what is said before it; encoders fail here.

    BERT and its kin open as causal models, whatever they were trained as.
    """
    import torch

    n = model.get_input_embeddings().num_embeddings
    ids = [(n // 2 + 3 * i) % n for i in range(5)]
    with torch.inference_mode():
        pair = torch.tensor([ids[:4], [*ids[:3], ids[4]]], device=model.device)
        logits = model(input_ids=pair).logits.float()[:, :3]  # (2, 3, V)
    tolerance = torch.finfo(model.dtype).eps ** 0.5 * logits.abs().max()
    return bool((logits[0] - logits[1]).abs().max() <= tolerance)


def silence_loading() -> None:
    """Keep transformers' bars and notes off a command's screen; errors still come."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _selected(cache: Any, rows: Any) -> Any:
    """A cache that holds the given rows of another, which stays as it was."""
    result = copy.copy(cache)
    result.layers = [copy.copy(layer) for layer in cache.layers]
    result.batch_select_indices(rows)
    return result


def draw(
    log_probabilities: NDArray[np.float64], temperature: float, rng: np.random.Generator
) -> int:
    """Index drawn from a softmax at a temperature; the largest at 0."""
    if temperature == 0:
        return int(log_probabilities.argmax())
    weights = np.exp((log_probabilities - log_probabilities.max()) / temperature)
    totals = np.cumsum(weights)
    if not math.isfinite(totals[-1]):
        raise ValueError("expected finite log-probabilities, got NaN: the model is damaged")
    place = int(np.searchsorted(totals, rng.random() * totals[-1], side="right"))
    return min(place, len(totals) - 1)
