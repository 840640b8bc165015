"""The learner's architecture: a small Llama from transformers; the one door to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train_lm.checked.model_folder import check_finite, check_sizes, note_model, opened_as_data
from train_lm.files import replacing_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor, nn

LARGEST_SEED = 2**32 - 1
TOKENIZER_FILES = ("tokenizer*", "*.model", "vocab*", "merges.txt", "*.tiktoken", "tekken.json")
LONGEST_REASON = 300  # characters


def check_seed(seed: int) -> None:
    """Raises: ValueError where a generator could not be seeded with it."""
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"expected a seed between 0 and {LARGEST_SEED}, got {seed}")


@dataclass(frozen=True)
class ModelConfig:
    """One dial, the width; the rest is derived from it or from the preset.

    Attributes:
        width: Hidden size D; a multiple of 16.
        layers: Transformer blocks.
        context: Tokens T of a training window.
        seed: Seed of the initial weights, of 32 bits.
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
        check_seed(self.seed)

    @property
    def heads(self) -> int:
        """Heads of 64 dimensions, but at least 4 as long as 4 divides the width evenly."""
        return max(4, self.width // 64)


# Millions of parameters with a vocabulary of 512 (8192): xxs 0.03 (0.27) and xs 0.13 (0.62), for
# the RL loop; s 3.2 (5.2), m 28.5 (32.4) and l 115.9 (122.8).
PRESETS: dict[str, ModelConfig] = {
    "xxs": ModelConfig(width=32, layers=1, context=32),
    "xs": ModelConfig(width=64, layers=2, context=64),
    "s": ModelConfig(width=256, layers=4, context=128),
    "m": ModelConfig(width=512, layers=9, context=256),
    "l": ModelConfig(width=896, layers=12, context=512),
}


@dataclass(frozen=True)
class Opened:
    """A model to train, and what to give back with it.

    Attributes:
        model: In float32; it keeps no keys and values, which are of no use to a training step.
        tokenizer: Its own, as transformers knows it; None where it has none.
        use_cache: Whether it keeps keys and values when it is used.
        sha256: Of what it was opened from, a directory or what the hub gave; empty of a preset.
    """

    model: nn.Module
    tokenizer: Any | None
    use_cache: bool
    sha256: str = ""


def build_model(config: ModelConfig, vocab_size: int, end_of_text: int | None = None) -> nn.Module:
    """A causal LM whose `forward(input_ids=...)` returns `.logits` of shape (B, T, V).

    Args:
        end_of_text: Id of the token that closes a text, and so begins the next; the model that is
            written down says so. It changes no weight.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    # The initial weights come from the configuration's own seed; the caller's torch RNG is left
    # as it was, so that building a learner never shifts a policy's random numbers.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = LlamaForCausalLM(
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
                bos_token_id=end_of_text,  # a Llama's own ids are words of our vocabulary
                eos_token_id=end_of_text,
                attn_implementation="sdpa",  # type: ignore[call-arg]
            )
        )
    model.config.use_cache = False
    # What pads is named here and not in the model's configuration: an embedding of what pads is
    # never trained, and that of the end of text has to be.
    model.generation_config = GenerationConfig(
        bos_token_id=end_of_text, eos_token_id=end_of_text, pad_token_id=end_of_text
    )
    return model


def hide_library_bars() -> None:
    """Transformers shows no progress bar of its own: a command has one already."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def save_model(
    folder: Path,
    model: Any,
    tokenizer: Any,
    state: dict[str, Tensor] | None = None,
    use_cache: bool = True,
) -> Path:
    """Write a Hugging Face directory, whole or not at all; one that is there stays.

    Args:
        tokenizer: As transformers knows it.
        state: The model's tensors, where they are not its own parameters.
        use_cache: Whether the model that is written keeps keys and values when it is used.
    """
    if not folder.is_dir():
        trained_with = getattr(model.config, "use_cache", None)
        try:
            if trained_with is not None:
                model.config.use_cache = use_cache
            with replacing_folder(folder) as part:
                model.save_pretrained(part, state_dict=state)
                tokenizer.save_pretrained(part)
        finally:
            if trained_with is not None:
                model.config.use_cache = trained_with
    return folder


def open_model(name: str, own: Tokenizer, seed: int) -> Opened:
    """A fresh model of a preset, or a pretrained one with its own tokenizer.

    Args:
        name: A preset, a Hugging Face model directory, or a hub id.
        own: The tokenizer of a preset's model.
        seed: Of a preset's initial weights.

    Raises:
        ValueError: There is no such model, it is more than data (see `opened_as_data`), weights
            are missing from it, or its tokenizer cannot be opened.
    """
    if name in PRESETS:
        from train_lm.tokenizer import end_of_text  # numpy, which --help can do without

        config = replace(PRESETS[name], seed=seed)
        model = build_model(config, own.get_vocab_size(), end_of_text(own))
        return Opened(model, None, use_cache=True)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if not Path(name).is_dir() and name.count("/") != 1:
        raise ValueError(
            f"expected a model preset among {', '.join(PRESETS)}, a model directory or a hub id "
            f"such as owner/name, got {name!r}"
        )
    as_data = opened_as_data(name)
    try:
        check_sizes(name, AutoConfig, AutoModelForCausalLM, as_data)
        opened: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **as_data
        )
    except Exception as error:  # transformers raises whatever its file formats raise
        raise ValueError(f"expected a causal language model in {name}: {_reason(error)}") from None
    pretrained, loaded = opened
    if loaded["missing_keys"]:  # transformers would fill them with noise
        missing = sorted(loaded["missing_keys"])[0]
        raise ValueError(f"expected weights {missing} in {name}, got none: the model is damaged")
    check_finite(pretrained, name)
    use_cache = bool(getattr(pretrained.config, "use_cache", True))
    pretrained.config.use_cache = False
    tokenizer = _open_tokenizer(name, as_data)
    return Opened(pretrained, tokenizer, use_cache, note_model(name))


def _open_tokenizer(name: str, as_data: dict[str, bool]) -> Any | None:
    """The tokenizer of a model directory or of the hub; None where a directory holds none.

    Raises:
        ValueError: There is one, and it cannot be opened.
    """
    from transformers import AutoTokenizer

    folder = Path(name)
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **as_data)
        known = tokenizer("a")["input_ids"]
    except Exception as error:  # as with models: anything
        reason = _reason(error)
    else:
        if known:
            return tokenizer
        # Where files are missing, some classes come without any vocabulary instead.
        reason = f"{type(tokenizer).__name__} without a vocabulary"
    raise ValueError(
        f"expected to open the tokenizer in {name}, got {reason}: mend or complete its files; a "
        "model directory without any is trained in the world's tokens"
    )


def _reason(error: Exception) -> str:
    """What another library raised, on one line."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{(error.strerror or '').lower()}: {error.filename}"
    text = text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
