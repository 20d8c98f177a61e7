"""Prompts in pieces: the same ids as of the whole text, whatever the conversation."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdistill.demo.run import BASE
from agentdistill.models.model import Message, ModelError
from agentdistill.models.rendering import Renderer
from conftest import CHAT_TEMPLATE

transformers = pytest.importorskip("transformers", reason="needs agentdistill[train]")
tokenizers = pytest.importorskip("tokenizers", reason="needs agentdistill[train]")


def marks_beginnings() -> Any:
    """As SentencePiece's of older models: a text begins with a mark, and so would each of its pieces."""
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
    | st.text(max_size=5)
).map("".join)


MESSAGES = st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS).map(Message._make)


@given(st.lists(MESSAGES, min_size=1), TEXTS)
def test_ids_are_those_of_the_whole(tokenizer: Any, messages: list[Message], prefix: str) -> None:
    render = Renderer(tokenizer)
    whole = tokenizer.apply_chat_template([m._asdict() for m in messages], tokenize=False, add_generation_prompt=True)
    for _ in range(2):  # the second time, it remembers
        assert render(messages, prefix) == tokenizer(whole + prefix, add_special_tokens=False)["input_ids"]


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

    with pytest.raises(ModelError, match="the chat template refuses these messages: System role not supported"):
        Renderer(Tokenizer())([Message("system", "")], "")
