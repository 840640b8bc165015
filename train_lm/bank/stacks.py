"""Forward passes of several models of one architecture at once, over stacked weights.

A stack knows where each weight lies in a learner's row of numbers and how logits come of it. It
knows no optimiser and no loss. `StackedLlama` writes the few operations of a Llama as batched
matrix products; `StackedModule` maps any module that `torch.func.vmap` can map.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, ...]


class Stack(Protocol):
    """Logits of c learners from their stacked weights."""

    @property
    def shapes(self) -> Sequence[Shape]:
        """Shapes of one learner's leaves, in the order of its row; together they are the row.

        A leaf is one parameter, or several that lie side by side.
        """

    def __call__(self, leaves: Sequence[Tensor], ids: Tensor) -> Tensor:
        """(c, B, T) token ids to (c, B, T, V) logits; leaves are (c, *shape) each."""


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters of a row, in its order."""
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]


def stack_of(model: nn.Module) -> Stack:
    """The fastest stack that computes this model."""
    return StackedLlama(model) if StackedLlama.computes(model) else StackedModule(model)


class StackedModule:
    """Any module, by `vmap`; as fast as one after another unless it is compiled.

    Args:
        model: Says how to compute; its own weights are neither used nor changed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model)
        if hasattr(self.model, "set_attn_implementation"):
            # The fused attention of a CPU has no batching rule; vmap would fall back to a loop.
            self.model.set_attn_implementation("eager")  # type: ignore[operator]
        named = trainable(model)
        self.names = [n for n, _ in named]
        self.shapes: list[Shape] = [tuple(p.shape) for _, p in named]

    def __call__(self, leaves: Sequence[Tensor], ids: Tensor) -> Tensor:
        def one(leaves: Sequence[Tensor], ids: Tensor) -> Tensor:
            weights = dict(zip(self.names, leaves, strict=True))
            called = torch.func.functional_call(self.model, weights, (), {"input_ids": ids})
            logits: Tensor = called.logits
            return logits

        mapped: Tensor = torch.func.vmap(one, randomness="error")(tuple(leaves), ids)
        return mapped


def leaves_of(rows: Tensor, stack: Stack) -> list[Tensor]:
    """(c, P) rows of numbers as the stack's leaves, (c, *shape) each; views, not copies."""
    sizes = [math.prod(s) for s in stack.shapes]
    parts = zip(rows.split(sizes, 1), stack.shapes, strict=True)
    return [part.view(len(rows), *shape) for part, shape in parts]


class StackedLlama:
    """A transformers Llama (Touvron et al. 2023) with default rotary positions, batched by hand.

    Queries, keys and values lie side by side in a row, as do gate and up projection, so each
    group is one matrix product.

    Args:
        model: A `LlamaForCausalLM` for which `computes` holds.
    """

    def __init__(self, model: nn.Module) -> None:
        config: Any = model.config
        self.vocab = int(config.vocab_size)
        self.width = int(config.hidden_size)
        self.inner = int(config.intermediate_size)
        self.heads = int(config.num_attention_heads)
        self.groups = int(config.num_key_value_heads)
        self.head_width = int(config.head_dim or self.width // self.heads)
        self.layers = int(config.num_hidden_layers)
        self.epsilon = float(config.rms_norm_eps)
        self.theta = float(config.rope_parameters["rope_theta"])
        self.tied = bool(config.tie_word_embeddings)
        q, kv = self.heads * self.head_width, self.groups * self.head_width
        D = self.width
        layer = [(q + 2 * kv, D), (D, q), (2 * self.inner, D), (D, self.inner), (D,), (D,)]
        self.shapes: list[Shape] = [(self.vocab, D), *layer * self.layers, (D,)]
        if not self.tied:
            self.shapes.append((self.vocab, D))

    @staticmethod
    def computes(model: nn.Module) -> bool:
        """Whether this forward pass is that of the model."""
        config: Any = getattr(model, "config", None)
        if type(model).__name__ != "LlamaForCausalLM":
            return False
        plain = (
            config.hidden_act == "silu"
            and not config.attention_bias
            and not config.mlp_bias
            and not config.attention_dropout
            and config.rope_parameters.get("rope_type", "default") == "default"
        )
        return plain and all(p.requires_grad for p in model.parameters())

    def __call__(self, leaves: Sequence[Tensor], ids: Tensor) -> Tensor:
        c, B, T = ids.shape
        weights = iter(leaves)
        embedding = next(weights)  # (c, V, D)
        index = ids.reshape(c, B * T, 1).expand(-1, -1, self.width)
        x = embedding.gather(1, index)  # (c, B T, D)
        cos, sin = self._rotation(T, x.device)
        for _ in range(self.layers):
            qkv, out, gate_up, down, norm_in, norm_out = (next(weights) for _ in range(6))
            h = self._attention(_times(self._norm(x, norm_in), qkv), cos, sin, B, T)
            x = x + _times(h, out)
            gate, up = _times(self._norm(x, norm_out), gate_up).split(self.inner, -1)
            x = x + _times(F.silu(gate) * up, down)
        x = self._norm(x, next(weights))
        head = embedding if self.tied else next(weights)
        return _times(x, head).view(c, B, T, self.vocab)

    def _attention(self, qkv: Tensor, cos: Tensor, sin: Tensor, B: int, T: int) -> Tensor:
        c = len(qkv)
        H, G = self.heads, self.groups
        # (c B, H + 2 G, T, D / H)
        split = qkv.view(c * B, T, H + 2 * G, self.head_width).transpose(1, 2)
        q, k, v = split.split((H, G, G), 1)
        q, k = q * cos + _half_turn(q) * sin, k * cos + _half_turn(k) * sin
        q, k = q.to(v.dtype), k.to(v.dtype)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=H != G)
        return a.transpose(1, 2).reshape(c, B * T, H * self.head_width)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        x = x.float()
        return weight[:, None] * (x * torch.rsqrt(x.square().mean(-1, True) + self.epsilon))

    def _rotation(self, T: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rotary positions (Su et al. 2021): cosine and sine, (T, D / H) each."""
        even = torch.arange(0, self.head_width, 2, device=device).float()
        frequency = 1.0 / self.theta ** (even / self.head_width)
        angle = torch.arange(T, device=device).float()[:, None] * frequency
        angle = torch.cat([angle, angle], -1)
        return angle.cos(), angle.sin()


def _times(x: Tensor, weight: Tensor) -> Tensor:
    """(c, n, i) activations by (c, o, i) weights to (c, n, o)."""
    return torch.bmm(x, weight.transpose(1, 2))


def _half_turn(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)
