"""A training run that runs out of memory names the option to change, and the next run continues it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_training import TINY

from agentdistill._core import AgentDistillError
from agentdistill.training.config import TrainConfig
from agentdistill.training.settings import sft_settings

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from transformers import Qwen2Config  # noqa: E402

from agentdistill.training.memory import explaining_out_of_memory  # noqa: E402  # it imports torch

CHILD = """
import resource, sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + '/training']
from test_training import EXAMPLES, TINY, train
from agentdistill import AgentDistillError
from agentdistill.training import student

load = student.load_student

def load_in_little_memory(*given, **more):
    loaded = load(*given, **more)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 26), -1))
    return loaded

student.load_student = load_in_little_memory
long = {"input_ids": [65] * 500, "completion_mask": [1] * 500}
try:
    train([long] * 8, sys.argv[2], sys.argv[3], replace(TINY, batch_size=8, device_batch_size=8), progress=False)
except AgentDistillError as error:
    print(error)
"""


def test_out_of_memory_names_the_options_to_turn(base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, Qwen2ForCausalLM

    wide = tmp_path / "wide"
    config = Qwen2Config.from_pretrained(base, intermediate_size=8192)
    Qwen2ForCausalLM(config).save_pretrained(wide)
    AutoTokenizer.from_pretrained(base).save_pretrained(wide)
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parents[1]), str(wide), str(tmp_path / "student")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    said = ended.stdout
    assert said.startswith("out of memory with 8 examples of up to 500 tokens in a pass: try"), ended.stderr[-2000:]
    assert "--device-batch-size 1" in said and "--max-length below 500" in said


OPTIONS = [
    ({}, ["--device-batch-size 1", "--gradient-checkpointing", "--precision bfloat16", "--method qlora"]),
    ({"method": "full", "device_batch_size": 1}, ["--gradient-checkpointing", "--method lora"]),
    ({"method": "qlora", "gradient_checkpointing": True, "precision": "bfloat16"}, ["--device-batch-size 1"]),
]


@pytest.mark.parametrize(("given", "named"), OPTIONS)
def test_the_options_named_are_those_that_can_still_be_turned(
    base: Path, tmp_path: Path, given: dict[str, object], named: list[str]
) -> None:
    config = replace(TrainConfig(precision="float32"), **given)  # type: ignore[arg-type]
    settings = sft_settings(config, tmp_path, 99, Qwen2Config.from_pretrained(base))
    with pytest.raises(AgentDistillError) as raised, explaining_out_of_memory(config, settings, 99):
        raise torch.OutOfMemoryError("CUDA out of memory")
    said = str(raised.value)
    every = {option for _, options in OPTIONS for option in options}
    assert all(option in said for option in named) and "--max-length below 99" in said
    if given.get("method") == "qlora":
        assert not any(option in said for option in every - set(named))


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    settings = sft_settings(TINY, tmp_path, 9, Qwen2Config())
    with pytest.raises(RuntimeError, match="shapes"), explaining_out_of_memory(TINY, settings, 9):
        raise RuntimeError("shapes do not match")
