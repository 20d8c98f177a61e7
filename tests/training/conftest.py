"""Fixtures that several training tests need: a model that trains in a second."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 with two layers, and a tokenizer with one token per character."""
    torch = pytest.importorskip("torch", reason="needs agentdistill[train]")
    pytest.importorskip("trl", reason="needs agentdistill[train]")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("base")
    vocabulary = {chr(i): i for i in range(32, 127)} | {chr(i): i for i in range(32)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="\x03", pad_token="\x00").save_pretrained(path)
    config = Qwen2Config(
        vocab_size=128,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    Qwen2ForCausalLM(config).save_pretrained(path)
    return path
