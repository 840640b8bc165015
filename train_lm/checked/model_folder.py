"""A model of anybody's, opened as data: what a directory or the hub holds may not run or reach out.

It knows transformers' files and loads no weights.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from train_lm.files import read_json
from train_lm.inputs import note_files

PACKED = 2  # numbers in a byte, at most: four bits are the fewest that anybody stores
FLOAT = sys.float_info.max
SLACK = 2**20  # numbers that need no weights of their own
# Formats that may hold code, or that nothing here reads.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.h5", "*.msgpack")


def opened_as_data(name: str) -> dict[str, bool]:
    """Keyword arguments for every `from_pretrained` of a model directory or a hub id.

    They say it also where somebody could be asked: nothing on standard input changes the answer.

    Raises:
        ValueError: The model brings code, its weights are pickled or lie elsewhere, or it is a part
            of another model.
    """
    folder = Path(name)
    if folder.is_dir():
        files = sorted(folder.glob("*.json"))
        _check_weights(folder)
    else:
        _check_id(name)
        # Or transformers would have a third host convert pickles, and take what that proposes.
        os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
        files = list(_of_the_hub(name))
    for file in files:
        if file.name.endswith("config.json"):
            _check_configuration(file, name)
        elif file.name.endswith(".safetensors.index.json"):
            _places(file)  # says where one lies elsewhere
        if file.name != "tokenizer.json":  # large, and its own reader says the same
            _check_text(file)
    return {"trust_remote_code": False, "local_files_only": folder.is_dir()}


def note_model(name: str) -> str:
    """Name what a model and its tokenizer were opened from; returns its digest.

    Args:
        name: Its directory; or its hub id, once all of it was fetched: the hub's library keeps what
            it fetched in a folder for each commit.
    """
    folder = Path(name)
    called = "" if folder.is_dir() else name
    if called:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(name, "config.json")
        if not isinstance(found, str):
            raise ValueError(
                f"expected the files of {name} in the cache of the hub's library, found none: "
                "fetch it again"
            )
        folder = Path(found).parent
    forms = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
    names = (file.name for form in forms for file in folder.glob(form))
    return note_files(folder, names, "a model", called)


def check_finite(model: Any, name: str) -> None:
    """Raises: ValueError where a weight is not a number: every answer would be none, too."""
    for part, weights in model.named_parameters():
        if not bool(weights.isfinite().all()):
            raise ValueError(
                f"expected finite weights in {name}, got others in {part}: the model is damaged"
            )


def check_sizes(name: str, config: Any, auto: Any, as_data: dict[str, bool]) -> None:
    """Whether the weights on file are as many as the configuration says, before room is taken.

    A size that the configuration lacks is transformers' own, which can be a thousand times larger.

    Args:
        name: A model's directory, or its hub id, whose weights are fetched first, then.
        config: transformers' class of configurations.
        auto: Its class that will open the model.
        as_data: As `opened_as_data` gives it.

    Raises:
        ValueError: They are fewer.
    """
    folder = Path(name)
    files = list(folder.glob("*.safetensors") if folder.is_dir() else _weights_of_the_hub(name))
    if not files and not folder.is_dir():
        return  # whoever opens the model says why there are none
    import torch

    with torch.device("meta"):  # shapes without numbers
        model = auto.from_config(config.from_pretrained(name, **as_data))
    wanted = sum(part.numel() for part in model.parameters())
    found = sum(file.stat().st_size for file in files)
    if wanted > found * PACKED + SLACK:
        raise ValueError(
            f"expected weights of {wanted:,} numbers in {name}, as its config.json says, got "
            f"{found:,} bytes of them: sizes are missing from that file, or weights"
        )


def _weights_of_the_hub(name: str) -> Iterator[Path]:
    """Where the weights of a model of the hub lie, once they were fetched; none without a way."""
    from huggingface_hub import hf_hub_download

    try:
        yield Path(hf_hub_download(name, "model.safetensors"))
        return
    except (OSError, ValueError):
        pass  # it has them in pieces, or elsewhere
    with suppress(OSError, ValueError):
        index = Path(hf_hub_download(name, "model.safetensors.index.json"))
        for piece in sorted(set(_places(index).values())):
            yield Path(hf_hub_download(name, piece))


def _of_the_hub(name: str) -> Iterator[Path]:
    """The small files of a model of the hub that say what it would run; the weights come later."""
    from huggingface_hub import hf_hub_download

    for file in ("config", "tokenizer_config", "adapter_config", "model.safetensors.index"):
        try:
            found = hf_hub_download(name, f"{file}.json")
        except (OSError, ValueError):
            continue  # it has none, or no way leads there: whoever opens the model says so
        yield Path(found)


def _check_configuration(file: Path, name: str) -> None:
    if file.name == "adapter_config.json":
        # Its base model is named by a file, and would be fetched from wherever that says.
        raise ValueError(
            f"expected a whole model in {name}, got an adapter ({file.name}): merge it into its "
            "base model first"
        )
    for part in _objects(read_json(file)):
        if part.get("auto_map"):
            raise ValueError(
                f"expected a model that transformers knows in {name}, got one that brings code of "
                f"its own (auto_map in {file.name}): such code is never run; where transformers "
                "has this architecture itself, remove auto_map"
            )
        for key, value in part.items():
            # What a layer makes of a wrong one it says in the midst of a run, if at all.
            least, most = (0.0, 1.0) if "drop" in key else (-FLOAT, FLOAT)
            # A bool is 0 or 1 here; NaN is in no range.
            if isinstance(value, int | float) and not least <= value <= most:
                raise ValueError(
                    f"expected a number from {least:g} to {most:g} as {key} of {name}, got {value} "
                    f"in {file.name}: it is damaged"
                )
        for key in ("attn_implementation", "experts_implementation"):
            named = part.get(key) or part.get(f"_{key}")
            # A name with a slash is a repository, whose code transformers would fetch and run.
            if "/" in str(named):
                raise ValueError(
                    f"expected an {key} of transformers in {name}, got {named!r} in {file.name}, "
                    "which is code from elsewhere: such code is never run; remove the entry"
                )


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a configuration; the ones inside, too, as models of several parts have."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield found
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


def _check_text(file: Path) -> None:
    """Raises: ValueError where a text cannot be written again, as the model's own copy has to be.

    JSON can spell halves of characters. transformers keeps them until it saves: after the training.
    """
    try:
        json.dumps(read_json(file), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"expected whole characters in {file}, got {error.object[error.start]!a}: it is damaged"
        ) from None


def _check_weights(folder: Path) -> None:
    pickled = sorted(p.name for form in PICKLES for p in folder.glob(form))
    if pickled and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"expected weights as safetensors in {folder}, got {pickled[0]}: a pickle may run "
            "code when it is opened; convert it (save_pretrained of transformers does)"
        )


def _places(file: Path) -> dict[str, str]:
    """Which file of a folder has each tensor.

    Raises:
        ValueError: One lies elsewhere.
    """
    found = read_json(file)
    places = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(places, dict):
        return {}
    for place in places.values():
        if not isinstance(place, str) or Path(place).name != place:
            raise ValueError(
                f"expected plain file names in {file}, got {place!r}: weights lie beside it"
            )
    return places


def _check_id(name: str) -> None:
    """Raises: ValueError where a directory was meant; the hub may have a stranger's by its name."""
    owner = name.split("/")[0]
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name, re.ASCII) or (
        owner != name and Path(owner).is_dir()
    ):
        raise ValueError(
            f"expected a model directory at {name}, found none; a hub id is owner/name, and no "
            "folder here is called as its owner"
        )
