"""A stranger's model is data: whatever its directory holds, nothing of it runs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from safetensors.numpy import load_file

from kncl_env.world.world import World
from rabbit_holes.cli import main as rabbit_holes
from train_lm.checked.model_folder import note_model, opened_as_data
from train_lm.cli import main as train_lm

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    """The file that a stranger's code would write."""
    return tmp_path / "it-ran"


@pytest.fixture
def model(small_world: World, tmp_path: Path, witness: Path) -> Path:
    """A directory of a sound model, with code beside it that leaves a witness."""
    from train_lm.model import ModelConfig, build_model, save_model
    from train_lm.tokenizer import as_transformers

    own = small_world.tokenizer
    made = build_model(ModelConfig(32, 1, 32), own.get_vocab_size())
    folder = save_model(tmp_path / "model", made, as_transformers(own))
    (folder / "strange.py").write_text(
        f"from pathlib import Path\nPath({str(witness)!r}).write_text('it ran')\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class Config(LlamaConfig):\n    model_type = 'strange'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
        "class Tokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    return folder


def edit(file: Path, **entries: object) -> None:
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | entries))


MAPS = {
    "AutoConfig": "strange.Config",
    "AutoModelForCausalLM": "strange.Model",
    "AutoTokenizer": ["strange.Tokenizer", "strange.Tokenizer"],
    "AutoImageProcessor": "strange.Config",
    "AutoProcessor": "strange.Config",
}
FAULTS = {
    "configuration": "auto_map in config.json",
    "known kind": "auto_map in config.json",
    "code of another": "auto_map in config.json",
    "part": "auto_map in config.json",
    "tokenizer": "auto_map in tokenizer_config.json",
    "processor": "auto_map in processor_config.json",
    "image processor": "auto_map in preprocessor_config.json",
    "kernel": "'stranger/kernel' in config.json",
    "pickle": "pytorch_model.bin: a pickle may run code",
    "pt": "model.pt: a pickle may run code",
    "adapter": "got an adapter (adapter_config.json)",
    "pickled adapter": "got an adapter (adapter_config.json)",
    "weights elsewhere": "expected plain file names in",
    "no weights": "expected a causal language model",
    "lost sizes": "sizes are missing from that file, or weights",
    "odds": "expected a number from 0 to 1 as attention_dropout",
    "endless": "expected a number from -1.79769e+308 to 1.79769e+308 as rms_norm_eps",
}


def spoil(folder: Path, fault: str) -> None:
    weights = folder / "model.safetensors"
    if fault == "configuration":
        edit(folder / "config.json", auto_map=MAPS, model_type="strange")
    elif fault == "known kind":
        edit(folder / "config.json", auto_map=MAPS)
    elif fault == "code of another":
        edit(folder / "config.json", auto_map={k: f"evil/hub--{v}" for k, v in MAPS.items()})
    elif fault == "part":
        edit(folder / "config.json", text_config={"auto_map": MAPS})
    elif fault == "tokenizer":
        edit(folder / "tokenizer_config.json", auto_map=MAPS, tokenizer_class="Tokenizer")
    elif fault == "processor":
        edit(folder / "processor_config.json", auto_map=MAPS)
    elif fault == "image processor":
        edit(folder / "preprocessor_config.json", auto_map=MAPS)
    elif fault == "kernel":
        edit(folder / "config.json", attn_implementation="stranger/kernel")
    elif fault == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif fault == "pt":
        weights.rename(folder / "model.pt")
    elif fault == "adapter":
        edit(folder / "adapter_config.json", base_model_name_or_path="stranger/base")
        (folder / "config.json").unlink()
    elif fault == "pickled adapter":
        edit(folder / "adapter_config.json", base_model_name_or_path=str(folder))
        (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    elif fault == "weights elsewhere":
        outside = folder.parent / "outside.safetensors"
        weights.rename(outside)
        names = {"model.norm.weight": f"../{outside.name}"}
        edit(folder / "model.safetensors.index.json", metadata={}, weight_map=names)
    elif fault == "lost sizes":
        known = json.loads((folder / "config.json").read_text())
        # Transformers' own, 7 thousand million numbers, would be made before anything is compared.
        kept = {name: known[name] for name in ("architectures", "model_type", "vocab_size")}
        (folder / "config.json").write_text(json.dumps(kept))
    elif fault == "odds":
        edit(folder / "config.json", attention_dropout=1.5)
    elif fault == "endless":
        edit(folder / "config.json", rms_norm_eps=float("inf"))
    else:
        weights.unlink()


def words(command: str, world: World, model: Path | str, place: Path) -> list[str]:
    if command == "generate":
        argv = ["generate", "--walks", "1", "--depth", "1", "--device", "cpu"]
        return [*argv, "--world", str(world.path), "--model", str(model), "--out", str(place)]
    curriculum = place.with_name("c.jsonl")
    rows = [
        {"format": "kncl-curriculum", "version": 1, "world": world.hash},
        {"topics": [0], "passages": world.passages_of(0).tolist(), "tokens": 600},
    ]
    curriculum.write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["run", "--cpu", "--batch", "4", "--curriculum", str(curriculum)]
    return [*argv, "--world", str(world.path), "--model", str(model), "--out", str(place)]


COMMANDS = {"run": train_lm, "generate": rabbit_holes}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every attempt to reach another machine, though the user did not ask to stay off line."""
    asked: list[str] = []

    def refuse(*address: object, **_: object) -> None:
        asked.append(str(address))
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return asked


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_is_more_than_data_is_refused_by_name(
    small_world: World, model: Path, witness: Path, tmp_path: Path, no_network: list[str],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, fault: str,
) -> None:  # fmt: skip
    spoil(model, fault)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    argv = words(command, small_world, model, tmp_path / "out.jsonl")
    capsys.readouterr()
    assert COMMANDS[command](argv) == 2
    told = capsys.readouterr()
    (line,) = told.err.strip().splitlines()
    assert FAULTS[fault] in line
    assert str(model) in line
    assert told.out == ""
    assert not witness.exists()
    assert not no_network
    assert sys.stdin.read(2) == "y\n", "it asked"


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("config.json", {"dtype": "\x1b[31mred"}),
        ("tokenizer_config.json", {"chat_template": "{{\x1b[31mred"}),
        ("tokenizer_config.json", {"chat_template": "{{ nothing.of.the.kind }}"}),
        ("tokenizer_config.json", {"model_max_length": "\x1b[31mred"}),
    ],
)
def test_what_a_model_says_of_itself_is_tried_before_a_walk_begins(
    small_world: World, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    file: str, entries: dict[str, str],
) -> None:  # fmt: skip
    edit(model / file, **entries)
    capsys.readouterr()
    assert rabbit_holes(words("generate", small_world, model, tmp_path / "out.jsonl")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: expected a causal language model at {model}, got: ")
    assert line.isprintable()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_sound_directory_is_opened_without_a_request(
    small_world: World, model: Path, witness: Path, tmp_path: Path, no_network: list[str],
    capsys: pytest.CaptureFixture[str], command: str,
) -> None:  # fmt: skip
    out = tmp_path / "out.jsonl"
    assert COMMANDS[command](words(command, small_world, model, out)) == 0, capsys.readouterr()
    assert not witness.exists()
    assert not no_network


@pytest.mark.parametrize(("command", "module"), [("run", "train_lm"), ("generate", "rabbit_holes")])
def test_yes_on_standard_input_runs_nothing(
    small_world: World, model: Path, witness: Path, tmp_path: Path, command: str, module: str
) -> None:
    spoil(model, "configuration")
    argv = words(command, small_world, model, tmp_path / "out.jsonl")
    done = subprocess.run(
        [sys.executable, "-m", f"{module}.cli", *argv],
        input="y\n" * 100, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2
    assert "brings code of its own" in done.stderr
    assert "[y/N]" not in done.stdout + done.stderr
    assert not witness.exists()


def hub_of(model: Path, folder: Path) -> dict[str, str]:
    """A model as the hub's library keeps it; what a process has to know to find it there."""
    place = folder / "hub" / "models--owner--name"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (place / "snapshots").mkdir()
    model.rename(place / "snapshots" / ("0" * 40))
    return {**os.environ, "HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}


@pytest.mark.parametrize("fault", ["known kind", "lost sizes", "none"])
@pytest.mark.parametrize("pieces", [False, True])
def test_a_model_of_the_hub_is_held_to_the_same(
    model: Path, tmp_path: Path, fault: str, pieces: bool
) -> None:
    if fault != "none":
        spoil(model, fault)
    if pieces:
        piece = "model-00001-of-00001.safetensors"
        (model / "model.safetensors").rename(model / piece)
        places = dict.fromkeys(load_file(model / piece), piece)
        edit(model / "model.safetensors.index.json", metadata={}, weight_map=places)
    code = (
        "from train_lm.model import open_model\n"
        "try:\n    print(open_model('owner/name', None, 0).sha256)\n"
        "except ValueError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=hub_of(model, tmp_path), cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = done.stdout.splitlines()[-1]
    assert FAULTS[fault] in said if fault != "none" else re.fullmatch("[0-9a-f]{64}", said)


def test_a_model_of_the_hub_is_named_with_the_digest_of_what_was_fetched(
    model: Path, tmp_path: Path
) -> None:
    (model / "strange.py").unlink()
    digest = note_model(str(model))
    code = (
        "from train_lm.inputs import told_inputs\n"
        "from train_lm.model import open_model\n"
        "print(open_model('owner/name', None, 0).sha256)\n"
        "print(*told_inputs())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=hub_of(model, tmp_path), cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-2:] == [
        digest,
        f"read owner/name: a model, sha256 {digest[:12]}…, nothing to check it against",
    ]


class Hub(BaseHTTPRequestHandler):
    """A hub of one repository, whose weights are pickled; it keeps what it was asked for."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.rpartition("/resolve/main/")[2].split("?")[0]
        body = self.files.get(name, b"")
        if self.path.startswith("/api/models/owner/name"):
            body = json.dumps({"id": "owner/name", "sha": "0" * 40, "siblings": []}).encode()
        self.send_response(200 if body else 404)
        if body:
            self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def test_a_model_of_the_hub_is_asked_for_at_the_configured_host_alone(
    model: Path, tmp_path: Path
) -> None:
    Hub.files = {p.name: p.read_bytes() for p in model.iterdir() if p.suffix == ".json"}
    Hub.files["pytorch_model.bin"] = b"\x80\x04."
    Hub.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    code = (
        "import socket\n"
        "whole = socket.getaddrinfo\n"
        "def watched(host, *rest, **more):\n"
        "    print('host', host, flush=True)\n"
        "    return whole(host if host == '127.0.0.1' else 'nobody.invalid', *rest, **more)\n"
        "socket.getaddrinfo = watched\n"
        "from train_lm.model import open_model\n"
        "try:\n    open_model('owner/name', None, 0)\n"
        "except ValueError as error:\n    print(error)\n"
    )
    place = f"http://127.0.0.1:{server.server_port}"
    own = {"HF_ENDPOINT": place, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **own}, cwd=ROOT,
            capture_output=True, text=True, check=True, timeout=100,
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    *hosts, told = done.stdout.strip().splitlines()
    assert set(hosts) == {"host 127.0.0.1"}
    assert told.startswith("expected a causal language model in owner/name: OSError")
    assert any(path.endswith("/config.json") for path in Hub.asked)
    assert not any("pytorch_model.bin" in path for path in Hub.asked)
    # Nor was it asked whether somebody would convert the pickle.
    assert not any("/commits" in path or "/discussions" in path for path in Hub.asked)


@pytest.mark.parametrize("name", ["runs/lm", "./lm", "../lm", "/lm", "~/lm", "a/b/c", "a//b"])
def test_a_directory_that_is_missing_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match="expected a model directory at"):
        opened_as_data(name)
    assert not no_network


@pytest.mark.parametrize("name", ["config", "tokenizer_config", "special_tokens_map"])
def test_half_a_character_is_refused_before_a_run_and_not_where_it_saves(
    model: Path, name: str
) -> None:
    file = model / f"{name}.json"
    edit(file, backend="\ud800")  # as JSON spells it, which transformers cannot write again
    with pytest.raises(ValueError, match=r"whole characters in .*, got '\\ud800'") as caught:
        opened_as_data(str(model))
    assert str(file) in str(caught.value)
