"""Any script: passages of the size asked for, cut between sentences, and no copy held out."""

from __future__ import annotations

import random
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kncl_env.cli import main
from kncl_env.world.build import build_world
from kncl_env.world.build_config import BuildConfig
from kncl_env.world.corpus import Article, Corpus
from kncl_env.world.leaks import faults
from kncl_env.world.overlap import unproved
from kncl_env.world.scripts import all_runs, cut_anywhere, terms_of, word_runs
from kncl_env.world.splits import Passage, cut_passages
from kncl_env.world.world import World
from train_lm.tokenizer import END_OF_TEXT, encode, end_of_text

# Letters, what stands between words, and what ends a sentence.
LANGUAGES = {
    "Chinese": ("".join(map(chr, range(0x4E00, 0x4E00 + 500))), "", "\u3002"),
    "Georgian": ("".join(map(chr, range(0x10D0, 0x10F1))), " ", "."),
    "Arabic": ("ابتثجحخدذرزسشصضطظعغفقكلمنهوي", " ", "\u061f"),
    "Turkish": ("abcçdefgğhıijklmnoöprsştuüvyz", " ", "."),  # noqa: RUF001
}
SIZE = 300


class Tongue:
    """Made-up words of a language's letters, and sentences of them."""

    def __init__(self, language: str, seed: int = 0) -> None:
        self.letters, self.space, self.stop = LANGUAGES[language]
        self.rng = random.Random(seed)
        lengths = (1, 3) if not self.space else (2, 8)
        self.words = [
            "".join(self.rng.choices(self.letters, k=self.rng.randint(*lengths)))
            for _ in range(400)
        ]

    def text(self, sentences: int, words: list[str] | None = None) -> str:
        return self.space.join(
            self.space.join(self.rng.choices(words or self.words, k=self.rng.randint(5, 14)))
            + self.stop
            for _ in range(sentences)
        )


def corpus_in(language: str, notice: str, tongue: Tongue, n: int = 24) -> Corpus:
    """Articles that all end each paragraph with one notice."""
    articles = [
        Article(
            f"{language} {i}",
            tuple(tongue.text(24, tongue.words[i * 8 : i * 8 + 200]) + notice for _ in range(4)),
        )
        for i in range(n)
    ]
    return Corpus(articles, "made up", "none needed")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_world_in_any_script_has_even_passages_and_holds_out_no_copied_notice(
    language: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tongue = Tongue(language)
    notice = tongue.space + tongue.text(3)
    config = BuildConfig(vocab_size=600, passage_bytes=SIZE)
    world = build_world(corpus_in(language, notice, tongue), tmp_path / "w", config)
    passages = world.passages()
    sizes = np.array([len(p.text.encode()) for p in passages])
    assert sizes.max() <= 1.5 * SIZE
    assert np.median(sizes) >= SIZE / 1.5
    held_out = [p for p in passages if p.split != "train"]
    assert len(held_out) > 50
    copied = [p for p in passages if notice.strip()[:20] in p.text]
    assert len(copied) > 50
    assert {p.split for p in copied} == {"train"}
    assert main(["check", str(world.path)]) == 0
    assert "no held-out text in another split" in capsys.readouterr().out
    assert (np.linalg.norm(world.topic_vectors, axis=1) > 0.9).all()


@pytest.mark.parametrize("language", LANGUAGES)
def test_most_cuts_lie_between_sentences(language: str) -> None:
    tongue = Tongue(language)
    pieces = list(cut_passages([tongue.text(60)], SIZE))
    assert sum(p.endswith(tongue.stop) for p in pieces) > 0.9 * len(pieces)


def test_check_finds_a_copy_in_any_script(tmp_path: Path) -> None:
    """The proof is not the build's own: what a build did not see, `check` sees."""
    for language in LANGUAGES:
        tongue = Tongue(language)
        copied, other = tongue.text(2), tongue.text(4)
        pair = [Passage(0, "test", other + tongue.space + copied), Passage(1, "train", copied)]
        assert [i for i, _ in unproved(pair)] == [0], language
        pair[1] = Passage(1, "train", tongue.text(9))
        assert unproved(pair) == [], language


HAN = "".join(map(chr, range(0x4E00, 0x4E00 + 60)))


def test_a_copy_of_sixteen_characters_is_found_and_fifteen_are_not() -> None:
    def shares(copied: int, before: str = "", after: str = "") -> bool:
        held, other = HAN[30:46], HAN[:9] + HAN[30 : 30 + copied] + HAN[10:20]
        return bool(np.isin(word_runs(before + held + after), all_runs(other)).any())

    assert shares(16)
    assert shares(16, before=HAN[50:55], after=HAN[55:60])
    assert not shares(15)
    assert len(word_runs(HAN[:16])) == 1
    assert len(word_runs(HAN[:15])) == 0


def test_punctuation_between_characters_is_left_aside() -> None:
    apart = "\u3001".join(HAN[:20]) + "\u3002"
    assert np.array_equal(word_runs(apart), word_runs(HAN[:20]))


def test_marks_belong_to_their_letters() -> None:
    hindi = "नमस्ते दुनिया यह एक छोटा वाक्य है जिसमें शब्द हैं"
    words = hindi.split()
    assert len(word_runs(hindi)) == len(words) - 7
    other = hindi.replace("छोटा", "छोटे")
    assert not np.isin(word_runs(other), word_runs(hindi))[:5].any()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ISPARTA IĞDIR İZMİR ", "ısparta ığdır izmir "),  # noqa: RUF001, a Turkish i has two capitals
        ("café naïve señor ", unicodedata.normalize("NFD", "CAFÉ naïve SEÑOR ")),
        ("كِتَابٌ جَدِيدٌ هُنَا ", "كتاب جديد هنا "),  # vowels may be left out
        ("كـتـاب جديد هنا ", "كتاب جديد هنا "),  # a stroke that fills a line
        ("co\u00adoperate \u200fdaily\u200e now ", "cooperate daily now "),
        ("ὈΔΥΣΣΕΎΣ λόγος ἔργον ", "ὀδυσσεύς ΛΌΓΟΣ ἔργον "),
    ],
)
def test_one_text_in_two_spellings_is_one_text(one: str, other: str) -> None:
    tail = "alpha beta gamma delta epsilon zeta" if one[0].isascii() else "1 2 3 4 5 6"
    runs = word_runs(one + tail)
    assert len(runs) == 2
    assert np.isin(runs, all_runs(other + tail)).all()


def test_a_script_without_spaces_that_nobody_knows_is_not_called_proved() -> None:
    """Letters of Brahmi, without a space: no copy could be found, so nothing is proved."""
    rng = random.Random(0)
    text = "".join(chr(rng.randint(0x11005, 0x11037)) for _ in range(300))
    spaced = re.sub("(.{6})", r"\1 ", text)
    assert len(word_runs(spaced)) > 0
    assert "none that can be told apart" in unproved([Passage(0, "test", text)])[0][1]
    assert unproved([Passage(0, "test", spaced)]) == []


def test_an_english_text_finds_its_copy_beside_a_foreign_one_and_the_other_way_round() -> None:
    english = "one two three four five six seven eight nine ten"
    foreign = HAN[:30]
    mixed = f"{english} {'and more of it ' * 20} {foreign}"
    assert np.isin(word_runs(foreign), all_runs(mixed)).any()
    assert np.isin(word_runs(english), all_runs(f"{english} {HAN * 3}")).any()


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1),
    st.integers(50, 120),
)
def test_a_cut_anywhere_loses_nothing_and_is_never_too_large(text: str, size: int) -> None:
    text *= 20
    pieces = list(cut_anywhere(text, size))
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(0 < len(p.encode()) <= size for p in pieces)


def test_no_cut_parts_a_letter_from_its_marks() -> None:
    clusters = ["กำ", "นี้", "ที่", "e\u0301\u0323", "👩\u200d👩\u200d👧", "क्ष", "\U0001f44d\U0001f3fd"]
    text = "".join(random.Random(0).choices(clusters, k=400))
    for piece in cut_anywhere(text, 50):
        first = piece[0]
        assert not unicodedata.category(first).startswith("M")
        assert first != "\u200d"
        assert not piece.endswith("\u200d")


def test_terms_are_words_with_their_marks_and_pairs_of_characters() -> None:
    assert terms_of("os.path is a module") == ["os.path", "is", "module"]
    assert terms_of("琴書大全, 琴譜 (Qin) 1590") == ["Qin", "1590", "琴書", "書大", "大全", "琴譜"]
    assert terms_of("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]


def test_a_text_that_spells_out_the_end_of_text_is_text(tmp_path: Path) -> None:
    tongue = Tongue("Turkish")
    spelled = f"{END_OF_TEXT} " * 3
    articles = [
        Article(f"T {i}", tuple(spelled + tongue.text(12) for _ in range(6))) for i in range(12)
    ]
    config = BuildConfig(vocab_size=400, passage_bytes=SIZE)
    world = build_world(Corpus(articles, "made up", "none"), tmp_path / "w", config)
    assert faults(World.open(world.path)) == []
    tokens, starts = world.tokens()
    end = end_of_text(world.tokenizer)
    first = np.asarray(tokens[starts[0] : starts[1]])
    assert np.flatnonzero(first == end).tolist() == [len(first) - 1]
    assert world.tokenizer.decode(first[:-1].tolist()) == world.passage_text(0)
    assert END_OF_TEXT in world.passage_text(0)
    assert [e.tolist().count(end) for e in encode(world.tokenizer, [END_OF_TEXT])] == [1]
