"""An adapter as a folder that plain peft opens, with a card beside it that says whose it is.

    adapter_config.json          peft's own, of a plain LoRA
    adapter_model.safetensors    A and B of every layer
    kncl_adapter.json            digests of base and adapter, and what the writer says of it

Folders of peft alone have no card: their shapes are checked, and their base cannot be. Whatever
comes from a file is data: no pickle is opened, and no code is named by a setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from train_lm.adapters import OUTER, Adapter, AdapterConfig, peft_settings
from train_lm.checked.digests import read_sealed, sealed
from train_lm.checked.inside import check_links, inside
from train_lm.checked.model_folder import PICKLES
from train_lm.checked.records import Fields
from train_lm.checked.tensors import digest_of, load_tensors
from train_lm.files import Json, read_json, replacing_folder, write_json, write_tensors
from train_lm.inputs import note_files

SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
CARD = "kncl_adapter.json"
ALPHA = "alpha"  # in the card: what weights are scaled by stands in no tensor
FORMAT = {"format": "kncl-adapter", "version": 1}

LARGEST_RANK = 1 << 16
# What a LoRA may have beyond A and B; all of it changes what these mean.
BEYOND = (
    "use_dora",
    "use_rslora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
)


def save_adapter(
    folder: Path, adapter: Adapter, about: Mapping[str, object] | None = None, *, over: bool = False
) -> Path:
    """Write an adapter, whole or not at all.

    Args:
        about: For the card: a neighbourhood's title, or the vector that it is found by.
        over: Whether one that is there is replaced.

    Raises:
        OSError: It cannot be written, or is there and not to be replaced.
    """
    with replacing_folder(folder, over=over) as part:
        write_json(part / SETTINGS, peft_settings(adapter.config))
        write_tensors(part / WEIGHTS, adapter.weights, {"format": "pt"})
        card = {
            **FORMAT,
            "base": adapter.base,
            "digest": digest_of(adapter.weights, {}),
            ALPHA: adapter.config.alpha,
            "about": dict(adapter.about if about is None else about),
        }
        write_json(part / CARD, sealed(card))
    return folder


def open_adapter(folder: Path, base: str | None = None) -> Adapter:
    """An adapter of ours or of plain peft.

    Args:
        base: Digest of the base that it is meant for (`Adapted.digest`, `base_digest`).

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged or edited, more than a plain LoRA, or of another base.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"expected the folder of an adapter at {folder}, found none")
    check_links(folder)
    pickled = sorted(p.name for form in PICKLES for p in folder.glob(form))
    if pickled and not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"expected {WEIGHTS} in {folder}, got {pickled[0]}: a pickle may run code when it is "
            "opened; save it as safetensors (save_pretrained of peft does)"
        )
    config = _config_in(inside(folder, SETTINGS, "its name"))
    weights, _ = load_tensors(inside(folder, WEIGHTS, "its name"), "the adapter is damaged")
    adapter = _checked(Adapter(config, weights), folder)
    if (folder / CARD).is_file():
        adapter = _with_card(adapter, inside(folder, CARD, "its name"))
    else:
        note_files(folder, (SETTINGS, WEIGHTS), "an adapter")
    if base is not None and adapter.base and adapter.base != base:
        raise ValueError(
            f"expected an adapter of the base {base[:12]}… in {folder}, got one of "
            f"{adapter.base[:12]}…: open it on the model it was trained on"
        )
    return adapter


def _config_in(file: Path) -> AdapterConfig:
    """Its shape, by peft's file.

    Raises:
        ValueError: It is of something else than a plain LoRA.
    """
    found = Fields.of(read_json(file), file)
    kind = found.text("peft_type")
    if kind != "LORA":
        raise ValueError(f"expected a LoRA in {file}, got {kind!r}: only these are opened")
    more = [name for name in BEYOND if found.values.get(name)]
    if found.values.get("bias", "none") != "none":
        more.append("bias")
    if more:
        raise ValueError(
            f"expected a plain LoRA in {file}, got one with {more[0]}: only A and B are read; "
            "merge it with peft first"
        )
    rank = found.whole("r", 1, LARGEST_RANK)
    try:
        return AdapterConfig(rank, found.number("lora_alpha"))
    except ValueError as error:
        raise ValueError(f"{error} in {file}: the adapter is damaged") from None


def _checked(adapter: Adapter, folder: Path) -> Adapter:
    """The adapter, with the layers that it stands beside.

    Raises:
        ValueError: Its tensors are not A and B of this rank.
    """
    rank, layers = adapter.config.rank, []
    for name, value in sorted(adapter.weights.items()):
        layer, _, which = name.partition(".lora_")
        side = {"A.weight": 0, "B.weight": 1}.get(which)
        twin = f"{layer}.lora_{'B' if side == 0 else 'A'}.weight"
        if side is None or not layer.startswith(OUTER) or twin not in adapter.weights:
            raise ValueError(
                f"expected A and B of linear layers in {folder / WEIGHTS}, got {name!r}: it is no "
                "plain LoRA, or damaged"
            )
        if value.dim() != 2 or value.shape[side] != rank or not value.is_floating_point():
            raise ValueError(
                f"expected {name} of rank {rank} in {folder / WEIGHTS}, as {SETTINGS} says, got "
                f"shape {tuple(value.shape)}: one of the two is another adapter's"
            )
        if side == 0:
            layers.append(layer.removeprefix(OUTER))
    if not layers:
        raise ValueError(f"expected A and B of linear layers in {folder / WEIGHTS}, got none")
    return replace(adapter, config=replace(adapter.config, targets=tuple(layers)))


def _with_card(adapter: Adapter, file: Path) -> Adapter:
    """The adapter with what its card says.

    Raises:
        ValueError: The adapter is not the one that the card was written for, or scaled otherwise.
    """
    card = read_sealed(file)
    if any(card.values.get(key) != value for key, value in FORMAT.items()):
        raise ValueError(f"expected the card of an adapter in {file}, got another: damaged")
    if digest_of(adapter.weights, {}) != card.text("digest"):
        raise ValueError(
            f"expected the adapter that {file} was written for, got other numbers: edited or "
            "damaged; without that file it opens as one of plain peft"
        )
    if ALPHA in card and card.number(ALPHA) != adapter.config.alpha:
        raise ValueError(
            f"expected an alpha of {card.number(ALPHA):g} in {file.parent / SETTINGS}, as {file} "
            f"says, got {adapter.config.alpha:g}: edited or damaged"
        )
    about: Json = dict(card.inner("about").values)
    return replace(adapter, base=card.text("base"), about=about)
