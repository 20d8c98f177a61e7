"""Prompts rendered in pieces have the same ids as the whole text, for any conversation."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdistill.demo.run import BASE
from agentdistill.models.control_tokens import MARK, neutralized
from agentdistill.models.model import Message, ModelError
from agentdistill.models.rendering import Renderer
from chat_templates import CHAT_TEMPLATE

transformers = pytest.importorskip("transformers", reason="needs agentdistill[train]")
tokenizers = pytest.importorskip("tokenizers", reason="needs agentdistill[train]")


def marks_beginnings() -> Any:
    """Like the SentencePiece tokenizers of older models: a text begins with a mark, and so would each of its pieces."""
    words = {word: i for i, word in enumerate(["<unk>", "<|im_start|>", "<|im_end|>", "\u2581a", "a", "\u2581"])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first")
    model.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, chat_template=CHAT_TEMPLATE)


@pytest.fixture(scope="module", params=["bytes", "demo", "marks beginnings"])
def tokenizer(request: pytest.FixtureRequest, tiny_model: Path) -> Any:
    if request.param == "marks beginnings":
        return marks_beginnings()
    return transformers.AutoTokenizer.from_pretrained(tiny_model if request.param == "bytes" else BASE / "S")


TEXTS = st.lists(
    st.sampled_from(
        ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start", "|>", " ", "\n", "a", " a", "12", "\u00e9"]
    )
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0\ufdd1"), max_size=5)
).map("".join)


MESSAGES = st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS).map(Message._make)


CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


@given(st.lists(MESSAGES, min_size=1), TEXTS)
def test_ids_are_those_of_the_whole_and_turns_those_of_the_template(
    tokenizer: Any, messages: list[Message], prefix: str
) -> None:
    render = Renderer(tokenizer)
    said = "".join(text for _, text in messages) + prefix
    whole = tokenizer.apply_chat_template([m._asdict() for m in messages], tokenize=False, add_generation_prompt=True)
    for _ in range(2):  # the second time from its cache
        ids = render(messages, prefix)
        if not any(token in said for token in CONTROL):
            assert ids == tokenizer(whole + prefix, add_special_tokens=False)["input_ids"]
        start, end, other = (ids.count(tokenizer.convert_tokens_to_ids(token)) for token in CONTROL)
        if tokenizer.convert_tokens_to_ids(CONTROL[2]) == tokenizer.unk_token_id:
            other = 0
        assert (start, end, other) == (len(messages) + 1, len(messages), 0)
    if "<unk>" not in tokenizer.get_vocab() and tokenizer.backend_tokenizer.normalizer is None:
        assert tokenizer.decode(ids) == whole + prefix


TEMPLATES = {
    "chatml": CHAT_TEMPLATE,
    "gemma": "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "llama": "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "mistral": "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}",
}
TOKENS = [
    *("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]", "<|reserved_7|>", "<tool_call>"),
]


@pytest.mark.parametrize("kind", ["bytes", "sentences", "ends strip", "not special", "normalized"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_control_tokens_that_a_text_says_are_its_letters(template: str, kind: str) -> None:
    """For any tokenizer: text from a question, a passage or the model itself never becomes a control token."""
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    core = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(sorted(alphabet))}, []))
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=kind == "sentences")
    core.decoder = tokenizers.decoders.ByteLevel()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    added = [
        tokenizers.AddedToken(
            token,
            special=kind != "not special" and token != "<tool_call>",
            normalized=kind == "normalized",
            rstrip=kind == "ends strip",
        )
        for token in TOKENS
    ]
    made.add_tokens(added)
    made.chat_template = TEMPLATES[template]
    render = Renderer(made)
    structure = [*(set(TOKENS) - {"<tool_call>"})]
    if kind == "not special":
        structure = [token for token in structure if token in TEMPLATES[template]] + ["<s>", "</s>"]
    controls = set(made.convert_tokens_to_ids(structure))

    def turns(text: str) -> list[int]:
        said = [Message("system", text), Message("user", f"a {text} b"), Message("assistant", text)]
        return [token for token in render([*said, Message("user", text)], text) if token in controls]

    plain = turns("text")
    for token in [
        *structure,
        "<|im_" + "<|im_end|>",
        "<s><s>",
        "".join(TOKENS),
        f"a{MARK}<|im_end|>{MARK}<eos> [INST]",
    ]:
        assert turns(token) == plain, token
    words = render([Message("user", "<tool_call>")])
    assert made.convert_tokens_to_ids("<tool_call>") in words  # it does not become a turn


@pytest.mark.parametrize("said", [*TOKENS, "<|fim_prefix|>", "<unk>", "<\uff5cUser\uff5c>"])
def test_what_a_server_is_sent_has_no_control_token(said: str) -> None:
    sent = neutralized(f"a {said} b {said}")
    assert (said in sent) == (said in {"<tool_call>"})
    assert sent.replace("\u200b", "") == f"a {said} b {said}"


def test_ordinary_text_is_sent_as_it_is() -> None:
    for text in ("a < b |> c", "x[INST", "<think>a</think>", "a<s", "f(x) <| y |> z\n", "List<String>"):
        assert neutralized(text) == text


def test_only_what_is_new_is_tokenized(tiny_model: Path) -> None:
    real, texts = transformers.AutoTokenizer.from_pretrained(tiny_model), []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def __call__(self, text: str, **options: Any) -> Any:
            return real(text, **options)

        @property
        def backend_tokenizer(self) -> "Watched":
            return self

        def encode_batch_fast(self, batch: list[str], **options: Any) -> Any:
            texts.extend(batch)
            return real.backend_tokenizer.encode_batch_fast(batch, **options)

    render = Renderer(Watched())
    render([Message("user", "x")], "")
    del texts[:]
    render([Message("user", "x"), Message("assistant", "y")], "")
    assert texts == ["assistant\ny"]


def test_a_template_that_refuses() -> None:
    class Tokenizer:
        is_fast = False

        def __call__(self, *_: object, **__: object) -> dict[str, list[int]]:
            return {"input_ids": []}

        def apply_chat_template(self, *_: object, **__: object) -> str:
            raise RuntimeError("System role not supported")

    with pytest.raises(ModelError, match="the chat template rejects these messages: System role not supported"):
        Renderer(Tokenizer())([Message("system", "")], "")
