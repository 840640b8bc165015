"""`rabbit-holes generate` with a tiny real model over a small real world, offline."""

import shutil

import pytest
from rabbit_hole_fakes import build_animals

from rabbit_holes.cli import main
from rabbit_holes.path import Path, read_paths


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory):
    """A world directory and a model directory that uses the world's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("generate")
    world = build_animals(folder / "world")
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=world.tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64,
            num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=96,
        )
    ).save_pretrained(folder / "model")  # fmt: skip
    return folder / "world", folder / "model"


def command(places, out, *more: str) -> list[str]:
    world, model = places
    words = ["generate", "--world", str(world), "--model", str(model), "--out", str(out)]
    return [*words, "--walks", "7", "--depth", "3", "--batch", "3", *more]


def paths_of(file) -> list[Path]:
    errors: list[str] = []
    paths = list(read_paths(file, on_error=errors.append))
    assert not errors
    return paths


@pytest.mark.parametrize("mode", ["choose", "associate"])
def test_walks_are_written_and_their_rates_told(places, tmp_path, capsys, mode: str) -> None:
    out = tmp_path / "lm.jsonl"
    assert main(command(places, out, "--mode", mode)) == 0
    paths = paths_of(out)
    assert len(paths) == 7
    assert {path.walker for path in paths} == {"lm:model"}
    printed = capsys.readouterr().out
    assert "7 walks" in printed
    assert "off the graph:" in printed
    assert "in a loop:" in printed
    assert printed.splitlines()[-1] == str(out)


def test_a_model_that_keeps_no_cache_walks_as_well(places, tmp_path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    world, _ = places
    MambaForCausalLM(
        MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1, state_size=4)
    ).save_pretrained(tmp_path / "model")
    for mode in ("choose", "associate"):
        out = tmp_path / f"{mode}.jsonl"
        assert main(command((world, tmp_path / "model"), out, "--mode", mode)) == 0
        assert len(paths_of(out)) == 7


def test_an_old_file_survives_a_command_that_cannot_run(places, tmp_path) -> None:
    out = tmp_path / "lm.jsonl"
    assert main(command(places, out)) == 0
    whole = out.read_bytes()
    assert main(command(places, out, "--force", "--start", "Zebu")) == 2
    assert out.read_bytes() == whole


def test_titles_are_given_one_by_one_since_they_may_hold_commas(places, tmp_path) -> None:
    out = tmp_path / "lm.jsonl"
    assert main(command(places, out, "--start", "Ant", "Bee", "--start", "Cat")) == 0
    assert [path.titles[0] for path in paths_of(out)] == ["Ant", "Bee", "Cat"] * 2 + ["Ant"]


def test_a_file_cut_anywhere_is_completed_to_the_same_bytes(places, tmp_path) -> None:
    out = tmp_path / "lm.jsonl"
    assert main(command(places, out)) == 0
    whole = out.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in (0, 5, ends[0], ends[1] + 9, ends[2], ends[4] - 1, ends[5] + 40):
        out.write_bytes(whole[:cut])
        assert main(command(places, out)) == 0
        assert out.read_bytes() == whole


def test_a_finished_file_stays_as_it_is_and_other_settings_are_refused(
    places, tmp_path, capsys
) -> None:
    out = tmp_path / "lm.jsonl"
    assert main(command(places, out)) == 0
    whole = out.read_bytes()
    assert main(command(places, out)) == 0
    assert out.read_bytes() == whole
    assert main(command(places, out, "--seed", "1")) == 2
    assert "expected walks of these settings" in capsys.readouterr().err
    assert out.read_bytes() == whole
    assert main(command(places, out, "--seed", "1", "--force")) == 0
    assert out.read_bytes() != whole


def test_walks_go_on_only_with_the_model_that_they_were_begun_with(
    places, tmp_path, capsys, monkeypatch
) -> None:
    import train_lm.checked.model_folder as folder
    from train_lm.inputs import inputs

    world, model = places[0], shutil.copytree(places[1], tmp_path / "model")
    hashed: list[str] = []
    whole = folder.note_files

    def noted(place, *more: object):
        hashed.append(str(place))
        return whole(place, *more)

    monkeypatch.setattr(folder, "note_files", noted)
    out = tmp_path / "lm.jsonl"
    assert main(command((world, model), out)) == 0
    assert hashed == [str(model)]  # it may be large: once
    digest = inputs()["model"]
    assert {path.meta["model_sha256"] for path in paths_of(out)} == {digest[:12]}
    out.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[:3]))
    begun = out.read_bytes()
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    capsys.readouterr()
    assert main(command((world, model), out)) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert f"expected the model that {out} was begun with, sha256 {digest[:12]}…, got" in last
    assert out.read_bytes() == begun
    assert main(command((world, model), out, "--force")) == 0
    assert {path.meta["model_sha256"] for path in paths_of(out)} != {digest[:12]}


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--start", "Zebu"], "Zebu"),
        (["--goal", "Zebu"], "Zebu"),
        (["--offered", "1"], "1 is no choice"),
        (["--model", "xs"], "preset"),
        (["--world", "nowhere"], "world"),
    ],
)
def test_bad_input_gives_one_clear_line(places, tmp_path, capsys, more, complaint: str) -> None:
    assert main(command(places, tmp_path / "lm.jsonl", *more)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert complaint in last
