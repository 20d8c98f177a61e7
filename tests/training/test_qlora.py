"""Real training with the base model's weights in 4 bits, on a CPU."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_training import EXAMPLES, LORA, losses, mean

from agentdistill import extras
from agentdistill._core import AgentDistillError
from agentdistill.training.trainer import train

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

QLORA = replace(LORA, method="qlora")


def test_an_adapter_is_learnt_over_four_bits_and_merged_into_the_whole_base(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="needs agentdistill[qlora]")
    from safetensors.torch import load_file

    student = train(EXAMPLES, base, tmp_path / "student", QLORA, progress=False)
    assert mean(losses(student, EXAMPLES)) < mean(losses(base, EXAMPLES)) - 0.05
    adapter = load_file(tmp_path / "student" / "adapter" / "adapter_model.safetensors")
    assert {weights.dtype for weights in adapter.values()} == {torch.float32}, "small updates vanish in less"
    merged, untouched = (load_file(folder / "model.safetensors") for folder in (student, base))
    assert {name: weights.dtype for name, weights in merged.items()} == {
        name: weights.dtype for name, weights in untouched.items()
    }
    name = "model.embed_tokens.weight"  # it has no adapter
    assert torch.equal(merged[name], untouched[name])
    assert "quantization_config" not in json.loads((student / "config.json").read_text())


def test_what_it_needs_is_said_before_the_folder_is_claimed(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "bitsandbytes" else installed(name))
    with pytest.raises(AgentDistillError, match=r"bitsandbytes is not installed: pip install 'agentdistill\[qlora\]'"):
        train(EXAMPLES, base, tmp_path / "student", QLORA, progress=False)
    assert not (tmp_path / "student").exists()
