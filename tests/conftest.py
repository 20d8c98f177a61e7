"""Fixtures that many tests need: public data, a server that fails as scripted, and tiny real models."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from agentdistill.retry import Retries
from chat_templates import CHAT_TEMPLATE
from scripted_server import Server, serving

# Every run tries the same examples, without a deadline, so that none fails by chance or because the machine is busy.
# To search for new failures: pytest --hypothesis-profile=search
settings.register_profile("agentdistill", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile("agentdistill")

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # never look up a model's name; set before any library reads it
# A shell starts background jobs with SIGINT ignored, and children inherit that. Some tests send it to children.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads make tiny tensors slower


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a test was skipped for a reason that EXPECTED_SKIPS (a regular expression) does not match.

    CI sets EXPECTED_SKIPS, so that no test stops running there unnoticed. Without it, every skip is accepted.
    """
    expected = os.environ.get("EXPECTED_SKIPS")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if expected is None or reporter is None:  # a pytest-xdist worker has no reporter; the controller decides
        return
    reasons = {str(report.longrepr[2]) for report in reporter.stats.get("skipped", ())}
    if unexpected := {reason for reason in reasons if not re.search(expected, reason)}:
        reporter.write_line(f"\nskipped for reasons that EXPECTED_SKIPS does not list: {sorted(unexpected)}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data beside the project. Tests that need it are skipped if it does not exist."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"there is no public data at {folder}")
    return folder


@pytest.fixture
def server() -> Iterator[Server]:
    """A server whose responses the test scripts."""
    with serving() as server:
        yield server


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Retries, "first_pause", 0.01)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained model of Qwen2's architecture. It writes nonsense, and always the same."""
    torch = pytest.importorskip("torch", reason="needs agentdistill[train]")
    transformers = pytest.importorskip("transformers", reason="needs agentdistill[train]")
    tokenizers = pytest.importorskip("tokenizers", reason="needs agentdistill[train]")

    folder = tmp_path_factory.mktemp("tiny_model")
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = [*specials, *sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())]
    byte_pairs = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[])
    )
    byte_pairs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_pairs.decoder = tokenizers.decoders.ByteLevel()
    byte_pairs.add_special_tokens(specials)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_pairs,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = transformers.Qwen2Config(
        vocab_size=len(vocabulary),
        hidden_size=64,  # two heads of 32 dimensions, the smallest that vLLM has a kernel for
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LoRA adapter that changes what the tiny model writes."""
    torch = pytest.importorskip("torch", reason="needs agentdistill[train]")
    transformers = pytest.importorskip("transformers", reason="needs agentdistill[train]")
    peft = pytest.importorskip("peft", reason="needs agentdistill[train]")

    folder = tmp_path_factory.mktemp("tiny_adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    torch.manual_seed(2)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    peft.get_peft_model(base, config).save_pretrained(folder)
    return folder
