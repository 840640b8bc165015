"""The learner's architecture: a small Llama from transformers; the one door to it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class ModelConfig:
    """One dial, the width; the rest is derived from it or from the preset.

    Attributes:
        width: Hidden size D; a multiple of 16.
        layers: Transformer blocks.
        context: Tokens T of a training window.
        seed: Seed of the initial weights.
    """

    width: int = 64
    layers: int = 2
    context: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.width < 16 or self.width % 16:
            raise ValueError(f"expected a width that is a multiple of 16, got {self.width}")
        if self.layers < 1 or self.context < 2:
            raise ValueError(
                f"expected layers >= 1 and context >= 2, got {self.layers} and {self.context}"
            )

    @property
    def heads(self) -> int:
        """Heads of 64 dimensions, but at least 4 as long as 4 divides the width evenly."""
        return max(4, self.width // 64)


# Parameters: xxs 0.02 M and xs 0.13 M with a vocabulary of 512, for the RL loop; s 5 M, m 32 M
# and l 123 M with one of 8192.
PRESETS: dict[str, ModelConfig] = {
    "xxs": ModelConfig(width=32, layers=1, context=32),
    "xs": ModelConfig(width=64, layers=2, context=64),
    "s": ModelConfig(width=256, layers=4, context=128),
    "m": ModelConfig(width=512, layers=9, context=256),
    "l": ModelConfig(width=896, layers=12, context=512),
}


def build_model(config: ModelConfig, vocab_size: int) -> nn.Module:
    """A causal LM whose `forward(input_ids=...)` returns `.logits` of shape (B, T, V)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    # The initial weights come from the configuration's own seed; the caller's torch RNG is left
    # as it was, so that building a learner never shifts a policy's random numbers.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=config.width,
                # SwiGLU's 8/3 keeps the parameters of a 4x two-matrix MLP (Shazeer 2020).
                intermediate_size=max(16, config.width * 8 // 3 // 16 * 16),
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=config.heads,
                max_position_embeddings=config.context,
                tie_word_embeddings=True,
                use_cache=False,
                attn_implementation="sdpa",  # type: ignore[call-arg]
            )
        )


def save_model(
    folder: Path, model: Any, tokenizer: Any, state: dict[str, Tensor] | None = None
) -> Path:
    """Write a Hugging Face directory, whole or not at all; one that is there stays.

    Args:
        state: The model's tensors, where they are not its own parameters.
    """
    if not folder.is_dir():
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        model.save_pretrained(part, state_dict=state)
        tokenizer.save_pretrained(part)
        part.rename(folder)
    return folder


def open_model(name: str, vocab_size: int, seed: int) -> tuple[nn.Module, Any | None]:
    """A fresh model of a preset, or a pretrained one with its own tokenizer.

    Args:
        name: A preset, a Hugging Face model directory, or a hub id.
        vocab_size: Token ids of a preset's model.
        seed: Of a preset's initial weights.

    Returns:
        The model in float32, and its tokenizer; None where it has none of its own.

    Raises:
        ValueError: There is no such model, or weights are missing from it.
    """
    if name in PRESETS:
        return build_model(replace(PRESETS[name], seed=seed), vocab_size), None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not Path(name).is_dir() and name.count("/") != 1:
        raise ValueError(
            f"expected a model preset among {list(PRESETS)}, a model directory or a hub id such as "
            f"owner/name, got {name!r}"
        )
    try:
        opened: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # transformers raises whatever its file formats raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(f"expected a causal language model in {name}: {reason}") from None
    model, loaded = opened
    if loaded["missing_keys"]:  # transformers would fill them with noise
        missing = sorted(loaded["missing_keys"])[0]
        raise ValueError(f"expected weights {missing} in {name}, got none: the model is damaged")
    model.config.use_cache = False  # keys and values of training steps are of no use to anyone
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        # Where the files are missing, some classes come without any vocabulary instead.
        found = tokenizer if tokenizer("a")["input_ids"] else None
    except Exception:  # as above: anything
        found = None
    return model, found
