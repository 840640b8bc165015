"""Forward passes of several models of one architecture at once, over stacked weights.

A stack knows where each weight lies in a learner's row of numbers and how logits come of it. It
knows no optimiser and no loss. `StackedLlama` writes the few operations of a Llama as batched
matrix products; `StackedModule` maps any module that `torch.func.vmap` can map.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from train_lm.adapters import Adapted

Shape = tuple[int, ...]
Product = Callable[[Tensor, Tensor, int, str], Tensor]

# Matrices of a group, by a Llama's names for them.
MATRICES = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


class Stack(Protocol):
    """Logits of c learners from their stacked weights."""

    @property
    def shapes(self) -> Sequence[Shape]:
        """Shapes of one learner's leaves, in the order of its row; together they are the row.

        A leaf is one parameter, or several that lie side by side.
        """

    @property
    def frozen_shapes(self) -> Sequence[Shape]:
        """Shapes of the leaves that stand still, as those of a base under adapters; often none."""

    def __call__(
        self, leaves: Sequence[Tensor], ids: Tensor, frozen: Sequence[Tensor] = ()
    ) -> Tensor:
        """(c, B, T) token ids to (c, B, T, V) logits.

        Args:
            leaves: (c, *shape) each.
            frozen: (c, *shape) each, or (1, *shape) where all learners share them.
        """


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters of a row, in its order."""
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]


def stack_of(model: nn.Module) -> Stack:
    """The fastest stack that computes this model."""
    return StackedLlama(model) if StackedLlama.computes(model) else StackedModule(model)


def adapted_stack(base: nn.Module, adapted: Adapted) -> Stack:
    """The fastest stack that computes a base with an adapter beside it."""
    if StackedLlama.is_plain(base):
        return AdaptedLlama(base, adapted)
    own = {n for n, _ in adapted.model.named_parameters() if "lora_" in n}
    return StackedModule(adapted.model, own)


class StackedModule:
    """Any module, by `vmap`; as fast as one after another unless it is compiled.

    Args:
        model: Says how to compute; its own weights are neither used nor changed.
        trained: Names of the parameters that rows hold, where others are frozen leaves; all
            that require a gradient, if not stated, and no frozen ones.
    """

    def __init__(self, model: nn.Module, trained: Collection[str] | None = None) -> None:
        self.model = copy.deepcopy(model)
        if hasattr(self.model, "set_attn_implementation"):
            # The fused attention of a CPU has no batching rule; vmap would fall back to a loop.
            self.model.set_attn_implementation("eager")  # type: ignore[operator]
        named = list(model.named_parameters())
        if trained is None:
            rows, frozen = trainable(model), []
        else:
            rows = [(n, p) for n, p in named if n in trained]
            frozen = [(n, p) for n, p in named if n not in trained]
        self.names = [n for n, _ in (*rows, *frozen)]
        self.shapes: list[Shape] = [tuple(p.shape) for _, p in rows]
        self.frozen_shapes: list[Shape] = [tuple(p.shape) for _, p in frozen]

    def __call__(
        self, leaves: Sequence[Tensor], ids: Tensor, frozen: Sequence[Tensor] = ()
    ) -> Tensor:
        def one(leaves: Sequence[Tensor], frozen: Sequence[Tensor], ids: Tensor) -> Tensor:
            weights = dict(zip(self.names, (*leaves, *frozen), strict=True))
            called = torch.func.functional_call(self.model, weights, (), {"input_ids": ids})
            logits: Tensor = called.logits
            return logits

        shared = bool(frozen) and len(frozen[0]) == 1
        base = tuple(f[0] if shared else f for f in frozen)
        how = (0, None if shared or not frozen else 0, 0)
        mapped: Tensor = torch.func.vmap(one, how, randomness="error")(tuple(leaves), base, ids)
        return mapped


def leaves_of(rows: Tensor, stack: Stack) -> list[Tensor]:
    """(c, P) rows of numbers as the stack's leaves, (c, *shape) each; views, not copies."""
    return _viewed(rows, stack.shapes)


def frozen_of(rows: Tensor | None, stack: Stack) -> list[Tensor]:
    """(1, P) or (c, P) rows of frozen numbers as the stack's frozen leaves; none, if None."""
    return [] if rows is None else _viewed(rows, stack.frozen_shapes)


def _viewed(rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
    parts = zip(rows.split([math.prod(s) for s in shapes], 1), shapes, strict=True)
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
        self.frozen_shapes: list[Shape] = []
        # Widths of the matrices of a group, by its place in a layer.
        self.groups_of = {"qkv": (q, kv, kv), "o": (D,), "gate_up": (self.inner,) * 2, "down": (D,)}

    @staticmethod
    def computes(model: nn.Module) -> bool:
        """Whether this forward pass is that of the model, all of whose weights are trained."""
        return StackedLlama.is_plain(model) and all(p.requires_grad for p in model.parameters())

    @staticmethod
    def is_plain(model: nn.Module) -> bool:
        """Whether this forward pass is that of the model."""
        config: Any = getattr(model, "config", None)
        if type(model).__name__ != "LlamaForCausalLM":
            return False
        return bool(
            config.hidden_act == "silu"
            and not config.attention_bias
            and not config.mlp_bias
            and not config.attention_dropout
            and config.rope_parameters.get("rope_type", "default") == "default"
        )

    def __call__(
        self, leaves: Sequence[Tensor], ids: Tensor, frozen: Sequence[Tensor] = ()
    ) -> Tensor:
        return self.logits(leaves, ids, lambda x, weight, layer, group: _times(x, weight))

    def logits(self, leaves: Sequence[Tensor], ids: Tensor, product: Product) -> Tensor:
        """(c, B, T, V) logits.

        Args:
            leaves: (c, *shape) each, or (1, *shape) where all learners share them.
            product: Of activations and a group of a layer's matrices.
        """
        c, B, T = ids.shape
        weights = iter(leaves)
        embedding = next(weights)  # (c, V, D)
        if len(embedding) == c:
            index = ids.reshape(c, B * T, 1).expand(-1, -1, self.width)
            x = embedding.gather(1, index)  # (c, B T, D)
        else:
            x = F.embedding(ids.reshape(c, B * T), embedding[0])
        cos, sin = self._rotation(T, x.device)
        for i in range(self.layers):
            qkv, out, gate_up, down, norm_in, norm_out = (next(weights) for _ in range(6))
            h = product(self._norm(x, norm_in), qkv, i, "qkv")
            x = x + product(self._attention(h, cos, sin, B, T), out, i, "o")
            h = product(self._norm(x, norm_out), gate_up, i, "gate_up")
            gate, up = h.split(self.inner, -1)
            x = x + product(F.silu(gate) * up, down, i, "down")
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


class AdaptedLlama:
    """A frozen Llama with adapters beside its matrices: one base, read by all learners.

    Args:
        base: The plain model.
        adapted: The same with an adapter; says where it stands.
    """

    def __init__(self, base: nn.Module, adapted: Adapted) -> None:
        self.llama = StackedLlama(base)
        self.scale = adapted.config.scale
        self.frozen_shapes = self.llama.shapes
        numbers = dict(adapted.model.named_parameters())
        own = [n for n in numbers if "lora_" in n]
        self.shapes: list[Shape] = [tuple(numbers[n].shape) for n in own]
        place = {name: i for i, name in enumerate(own)}
        self._leaves = {s.weight: (place[s.down], place[s.up]) for s in adapted.sites}

    def __call__(
        self, leaves: Sequence[Tensor], ids: Tensor, frozen: Sequence[Tensor] = ()
    ) -> Tensor:
        def product(x: Tensor, weight: Tensor, layer: int, group: str) -> Tensor:
            whole = _times(x, weight)  # (c, B T, o)
            widths, found = self.llama.groups_of[group], []
            for part, name in zip(whole.split(widths, -1), MATRICES[group], strict=True):
                places = self._leaves.get(f"model.layers.{layer}.{name}.weight")
                if places is None:
                    found.append(part)
                    continue
                down, up = (leaves[i] for i in places)
                found.append(part + _times(_times(x, down), up) * self.scale)
            return found[0] if len(found) == 1 else torch.cat(found, -1)

        return self.llama.logits(frozen, ids, product)


def _times(x: Tensor, weight: Tensor) -> Tensor:
    """(c, n, i) activations by (c, o, i) weights, or (1, o, i) shared ones, to (c, n, o)."""
    if len(weight) == len(x):
        return torch.bmm(x, weight.transpose(1, 2))
    return F.linear(x, weight[0])


def _half_turn(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)
