"""The language model's sums against plain ones: no cache, no batch, no padding."""

import numpy as np
import pytest

from rabbit_holes.walkers.language_model import LanguageModel, draw, load_language_model
from rabbit_holes.walkers.prompts import chat_prompt, plain_prompt, read_answer
from train_lm.checked.model_folder import note_model
from train_lm.tokenizer import END_OF_TEXT, train_tokenizer

torch = pytest.importorskip("torch")

TEXTS = ["The ant meets the bee near the big cat > dog > elk.", "Ant > Bee > Big Cat >\n"] * 5
TEMPLATE = (
    "{% for m in messages %}<user>{{ m['content'] }}</user>{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)


def tokenizer(chat: bool = False):
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(TEXTS, 300), eos_token=END_OF_TEXT
    )
    if chat:
        made.chat_template = TEMPLATE
    return made


def tiny_llama(context: int = 128):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context,
            initializer_range=0.3,
        )
    ).eval()  # fmt: skip


def tiny_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=128,
                   initializer_range=0.3)
    ).eval()  # fmt: skip


def of_kind(kind: str):
    """A tiny causal model; `roberta` counts positions from behind its padding, `bart` by width."""
    import transformers as hf

    sizes = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "intermediate_size": 64}
    makers = {
        "llama": tiny_llama,
        "gpt2": tiny_gpt2,
        "opt": lambda: hf.OPTForCausalLM(
            hf.OPTConfig(**sizes, num_attention_heads=4, ffn_dim=64, word_embed_proj_dim=32)
        ),
        "xglm": lambda: hf.XGLMForCausalLM(
            hf.XGLMConfig(vocab_size=300, d_model=32, num_layers=2, attention_heads=4, ffn_dim=64)
        ),
        "roberta": lambda: hf.RobertaForCausalLM(
            hf.RobertaConfig(**sizes, **heads, is_decoder=True, max_position_embeddings=66)
        ),
        "bart": lambda: hf.BartForCausalLM(
            hf.BartConfig(
                vocab_size=300, d_model=32, decoder_layers=2, decoder_attention_heads=4,
                decoder_ffn_dim=64,
            )
        ),
        "mamba": lambda: hf.MambaForCausalLM(hf.MambaConfig(**sizes, state_size=8)),
        "rwkv": lambda: hf.RwkvForCausalLM(hf.RwkvConfig(**sizes, attention_hidden_size=32)),
        "openai-gpt": lambda: hf.OpenAIGPTLMHeadModel(
            hf.OpenAIGPTConfig(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=128)
        ),
        "lfm2": lambda: hf.Lfm2ForCausalLM(
            hf.Lfm2Config(
                **sizes, **heads, num_key_value_heads=2, layer_types=["conv", "full_attention"]
            )
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    made = makers[kind]().eval()
    with torch.no_grad():  # far from even, so that what is wrong shows
        for weight in made.parameters():
            weight.mul_(1 if weight.ndim == 1 or kind in ("llama", "gpt2") else 5)
    return made


# Whether a prompt's keys and values are computed once.
KINDS = {
    "llama": True, "gpt2": True, "opt": True, "xglm": True, "roberta": False, "bart": False,
    "mamba": False, "rwkv": False, "openai-gpt": False, "lfm2": False,
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    made = LanguageModel(request.param, of_kind(request.param), tokenizer())
    assert made.caches == KINDS[request.param]
    return made


def plain_score(model: LanguageModel, prompt: list[int], answer: list[int]) -> float:
    with torch.inference_mode():
        logits = model.model(torch.tensor([prompt + answer]), use_cache=False).logits[0]
    chances = logits.double().log_softmax(-1)
    at = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return float(np.mean([chances[i, token] for i, token in zip(at, answer, strict=True)]))


PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15, 16]]
ANSWERS = [[[20], [21, 22, 23, 24, 25, 26]], [[27, 28]], [[29, 30, 31], [20], [32, 33]]]


def test_scores_equal_those_of_whole_sequences_one_by_one(model: LanguageModel) -> None:
    scores = model.score(PROMPTS, ANSWERS)
    for prompt, answers, found in zip(PROMPTS, ANSWERS, scores, strict=True):
        expected = [plain_score(model, prompt, answer) for answer in answers]
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_scores_do_not_depend_on_how_many_answers_are_computed_at_once(
    model: LanguageModel, monkeypatch
) -> None:
    together = np.concatenate(model.score(PROMPTS, ANSWERS))
    monkeypatch.setattr("rabbit_holes.walkers.language_model.ROWS", 1)
    np.testing.assert_allclose(np.concatenate(model.score(PROMPTS, ANSWERS)), together, atol=2e-5)


def test_greedy_words_equal_those_of_recomputing_everything(model: LanguageModel) -> None:
    rngs = [np.random.default_rng(0) for _ in PROMPTS]
    said = model.go_on(PROMPTS, rngs, temperature=0, at_most=6)
    for prompt, text in zip(PROMPTS, said, strict=True):
        tokens = list(prompt)
        for _ in range(6):
            with torch.inference_mode():
                logits = model.model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
            tokens.append(int(logits.argmax()))
        # What follows the end of an answer was cut off.
        assert model.tokenizer.decode(tokens[len(prompt) :]).startswith(text)
        assert text or tokens[len(prompt)] == model.tokenizer.eos_token_id


def test_each_prompt_has_its_own_chance_whatever_stands_beside_it(model: LanguageModel) -> None:
    def say(prompts: list[list[int]]) -> list[str]:
        rngs = [np.random.default_rng(prompt[0]) for prompt in prompts]
        return model.go_on(prompts, rngs, temperature=1.5, at_most=5)

    assert [say([prompt])[0] for prompt in PROMPTS] == say(PROMPTS)


def test_a_title_is_tokenised_as_what_follows_the_arrow(model: LanguageModel) -> None:
    tokens = model.title_tokens("Big Cat", chat=False)
    assert model.tokenizer.decode(tokens) == " Big Cat >"
    assert model.title_tokens("Big Cat", chat=True)[-1] == model.tokenizer.eos_token_id


def test_a_walk_too_long_for_the_model_loses_its_earliest_pages() -> None:
    model = LanguageModel("tiny", tiny_llama(context=40), tokenizer())

    def prompt_of(trail):
        return plain_prompt(trail, None)

    tokens = model.prompt_tokens(["Ant", "Bee", "Big Cat"] * 9, prompt_of, room=10)
    text = model.tokenizer.decode(tokens)
    assert len(tokens) <= 30
    assert text.endswith(" > Big Cat >")
    assert text.startswith("From page to page")
    one = model.prompt_tokens(["x" * 500], prompt_of, room=10)
    assert len(one) == 30
    with pytest.raises(ValueError, match="context of 48 tokens"):
        model.prompt_tokens(["Ant"], prompt_of, room=40)


def test_a_chat_model_is_asked_through_its_template() -> None:
    model = LanguageModel("tiny", tiny_llama(context=400), tokenizer(chat=True))
    assert model.chats
    tokens = model.prompt_tokens(["Ant"], lambda t: chat_prompt(t, "Elk", ["Bee"]), room=5)
    text = model.tokenizer.decode(tokens)
    assert text.startswith("<user>You wander")
    assert text.endswith("</user><answer>")
    assert "'Elk'" in text
    assert "Bee" in text
    with pytest.raises(ValueError, match="offer fewer links"):
        model.prompt_tokens(["Ant"], lambda t: chat_prompt(t, None, ["Bee"] * 400), room=5)


def test_the_positions_that_a_model_has_are_used_to_the_last_and_not_beyond() -> None:
    # 66 rows, of which the first two are never used: padding and what stands before it.
    model = LanguageModel("tiny", of_kind("roberta"), tokenizer())
    assert model.context == 64
    prompt, answer = [5 + i for i in range(60)], [70, 71, 72, 73]
    found = model.score([prompt], [[answer]])[0][0]
    assert found == pytest.approx(plain_score(model, prompt, answer), abs=2e-5)
    with pytest.raises((IndexError, RuntimeError)):
        plain_score(model, prompt, [*answer, 74])


def test_a_model_that_reads_what_follows_is_refused(tmp_path) -> None:
    from transformers import RobertaConfig, RobertaForMaskedLM

    RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32,
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(ValueError, match="depend on what follows"):
        load_language_model(str(tmp_path), tokenizer=train_tokenizer(TEXTS, 300))


def test_a_title_that_spells_out_a_special_token_stays_text() -> None:
    model = LanguageModel("tiny", tiny_llama(), tokenizer())
    end = model.tokenizer.eos_token_id
    assert model.tokenizer(END_OF_TEXT)["input_ids"] == [end]
    for text in (f"The {END_OF_TEXT} token", END_OF_TEXT):
        tokens = model.title_tokens(text, chat=False)
        assert end not in tokens
        assert model.tokenizer.decode(tokens) == f" {text} >"
        prompt = model.prompt_tokens([text], lambda t: plain_prompt(t, None), room=5)
        assert end not in prompt
        assert model.tokenizer.decode(prompt) == f"From page to page: {text} >"


def test_in_a_question_the_templates_special_tokens_are_tokens_and_the_titles_are_not() -> None:
    chat = tokenizer(chat=True)
    chat.chat_template = TEMPLATE.replace("</user>", END_OF_TEXT)
    model = LanguageModel("tiny", tiny_llama(context=400), chat)
    end = chat.eos_token_id

    def asked(title: str) -> list[int]:
        return model.prompt_tokens([title], lambda t: chat_prompt(t, None, ["Bee"]), room=5)

    assert asked("Ant").count(end) == 1
    assert asked(END_OF_TEXT).count(end) == 1
    question = chat_prompt([END_OF_TEXT], None, ["Bee"]).text
    assert chat.decode(asked(END_OF_TEXT)) == f"<user>{question}{END_OF_TEXT}<answer>"
    # Ordinary questions are cut in one piece, as ever.
    whole = f"<user>{chat_prompt(['Ant'], None, ['Bee']).text}{END_OF_TEXT}<answer>"
    assert asked("Ant") == chat(whole)["input_ids"]


def test_a_vocabulary_that_lists_its_special_tokens_among_the_words_does_not_find_them() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = [("<unk>", 0.0), ("</s>", 0.0), *((letter, -3.0) for letter in "ab</s>")]
    made = Tokenizer(models.Unigram(words, unk_id=0))
    cut = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")
    model = LanguageModel("tiny", tiny_llama(), cut)
    assert 1 in cut("a</s>b", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert model._encode("a</s>b") == [cut.convert_tokens_to_ids(c) for c in "a</s>b"]


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (" Big Cat > Dog", "Big Cat"),
        ("Dog\nbecause it barks", "Dog"),
        ("\n “Dog”.", "Dog"),
        ("> Elk", "Elk"),
        ("**Gnu**", "Gnu"),
        ("", ""),
        (" .. \n", ""),
    ],
)
def test_an_answer_is_what_stands_before_the_arrow_or_the_end_of_the_line(said, answer) -> None:
    assert read_answer(said) == answer


def test_draws_follow_the_temperature() -> None:
    chances = np.log([0.2, 0.8])
    rng = np.random.default_rng(0)
    assert draw(chances, 0, rng) == 1
    share = np.mean([draw(chances, 1.0, rng) for _ in range(4000)])
    assert abs(share - 0.8) < 0.03
    flat = np.mean([draw(chances, 50.0, rng) for _ in range(4000)])
    assert abs(flat - 0.5) < 0.05
    with pytest.raises(ValueError, match="NaN"):
        draw(np.array([np.nan, 0.0]), 1.0, rng)


def test_a_saved_model_is_opened_again_with_its_own_or_a_given_tokenizer(tmp_path) -> None:
    tiny_llama().save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="expected a tokenizer"):
        load_language_model(str(tmp_path / "bare"))
    given = train_tokenizer(TEXTS, 300)
    bare = load_language_model(str(tmp_path / "bare"), tokenizer=given)
    assert bare.name == "bare"

    tokenizer().save_pretrained(tmp_path / "bare")
    own = load_language_model(str(tmp_path / "bare"))
    assert own.title_tokens("Ant", False) == bare.title_tokens("Ant", False)


def test_a_directory_with_a_tokenizer_of_another_make_keeps_it(tmp_path) -> None:
    tiny_gpt2().save_pretrained(tmp_path)
    own = train_tokenizer(["zebu okapi"] * 5, 270)
    own.model.save(str(tmp_path))  # vocab.json and merges.txt
    world = train_tokenizer(TEXTS, 300)
    model = load_language_model(str(tmp_path), tokenizer=world)
    assert model.title_tokens("zebu", False) == own.encode(" zebu >").ids
    assert model.title_tokens("zebu", False) != world.encode(" zebu >").ids


@pytest.mark.parametrize(
    ("place", "complaint"), [("xs", "preset 'xs'"), ("empty", "expected a tokenizer")]
)
def test_what_holds_no_trained_model_is_refused_in_one_line(
    tmp_path, monkeypatch, place: str, complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=complaint) as refusal:
        load_language_model(place)
    assert "\n" not in str(refusal.value)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    larger = train_tokenizer([*TEXTS, *(f"word{i} {i * i}" for i in range(500))], 400)
    with pytest.raises(ValueError, match="different make"):
        load_language_model(str(tmp_path), tokenizer=larger)


def test_a_damaged_model_is_refused_in_one_line(tmp_path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="expected a causal language model") as refusal:
        load_language_model(str(tmp_path), tokenizer=train_tokenizer(TEXTS, 300))
    assert "\n" not in str(refusal.value)


def test_a_link_scorer_needs_no_world(tmp_path) -> None:
    from rabbit_holes.walkers.generative import load_link_scorer

    tiny_llama().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    score, digest = load_link_scorer(str(tmp_path))
    assert digest == note_model(str(tmp_path))
    both = score(["Ant", "Bee"], ["Big Cat", "Dog"])
    assert both.shape == (2,)
    assert (both < 0).all()
    np.testing.assert_allclose(score(["Ant", "Bee"], ["Dog"])[0], both[1], atol=2e-5)
