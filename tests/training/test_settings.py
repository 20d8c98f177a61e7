"""Settings that only TRL and PEFT have are passed through, recorded, and refused if they make no sense."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from test_training import EXAMPLES, LORA, TINY

from agentdistill import cli
from agentdistill._core import AgentDistillError
from agentdistill.training.config import TrainConfig
from agentdistill.training.settings import one_gpu, sft_settings
from agentdistill.training.trainer import train

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from transformers import Qwen2Config  # noqa: E402

REFUSED = [
    pytest.param(
        {"sft_config": ("neftune_noise_alhpa=5",)}, "no 'neftune_noise_alhpa': is it neftune_noise_alpha", id="near"
    ),
    pytest.param({"lora_config": ("rslora=true",)}, "LoraConfig has no 'rslora': is it .*use_rslora", id="near-lora"),
    pytest.param({"sft_config": ("qqqqqqqq=1",)}, "see the documentation of SFTConfig", id="nothing-near"),
    pytest.param({"sft_config": ("learning_rate=1",)}, "learning_rate is set here already", id="ours"),
    pytest.param({"lora_config": ("r=8",)}, "r is set here already", id="ours-lora"),
    pytest.param({"sft_config": ("push_to_hub=true",)}, "push_to_hub is set here already", id="the-hub"),
    pytest.param({"sft_config": ("fsdp=true",)}, "fsdp is set here already", id="another-way-to-shard"),
    pytest.param({"sft_config": ("assistant_only_loss=true",)}, "would change nothing", id="of-texts"),
    pytest.param({"sft_config": ("max_grad_norm",)}, "give NAME=VALUE", id="no-value"),
    pytest.param({"lora_config": ("use_rslora=True",)}, "use_rslora is 'True': give true or false", id="python"),
    pytest.param({"sft_config": ("max_grad_norm=low",)}, "max_grad_norm is 'low': give a number", id="no-number"),
    pytest.param({"sft_config": ("optim=none",)}, "is invalid: .*none", id="refused-by-trl"),
    pytest.param({"sft_config": ("loss_type=dft",), "action_weight": 2.0}, "changes the loss", id="two-losses"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED)
def test_what_makes_no_sense_is_refused_before_the_folder_is_claimed(
    base: Path, tmp_path: Path, given: dict[str, object], said: str
) -> None:
    examples = [{**example, "spans": [("action", 4, 6)]} for example in EXAMPLES]
    with pytest.raises(ValueError, match=said):
        train(examples, base, tmp_path / "student", replace(LORA, **given), progress=False)  # type: ignore[arg-type]
    assert not (tmp_path / "student").exists()


def test_what_is_passed_through_counts_and_is_recorded(base: Path, tmp_path: Path) -> None:
    command = "train kept.jsonl --model base -o student --sft-config neftune_noise_alpha=5 weight_decay=0.1 "
    command += '--lora-config use_rslora=true target_modules=["q_proj"]'
    parsed = cli.parse(command.split()).config  # type: ignore[union-attr]
    assert parsed.sft_config == ("neftune_noise_alpha=5", "weight_decay=0.1")
    config = replace(LORA, epochs=1, sft_config=parsed.sft_config, lora_config=parsed.lora_config)
    settings = sft_settings(config, tmp_path / "student", 8, Qwen2Config())
    assert (settings.neftune_noise_alpha, settings.weight_decay, settings.max_grad_norm) == (5, 0.1, 1.0)
    student = train(EXAMPLES, base, tmp_path / "student", config, progress=False)
    adapter = json.loads((tmp_path / "student" / "adapter" / "adapter_config.json").read_text())
    assert adapter["use_rslora"] is True and adapter["target_modules"] == ["q_proj"]
    run = json.loads((tmp_path / "student" / "train.json").read_text())["run"]
    assert run["lora_config"] == ["use_rslora=true", 'target_modules=["q_proj"]']
    assert train(EXAMPLES, base, tmp_path / "student", config, progress=False) == student  # already finished
    with pytest.raises(ValueError, match="another run"):
        train(EXAMPLES, base, tmp_path / "student", replace(config, lora_config=()), progress=False)


def test_losses_are_reported_beside_the_student(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(EXAMPLES, base, tmp_path / "student", replace(TINY, epochs=1, report_to="tensorboard"), progress=False)
    events = EventAccumulator(str(tmp_path / "student" / "tensorboard")).Reload()
    result = json.loads((tmp_path / "student" / "train.json").read_text())["result"]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(result["losses"])


def test_a_library_to_report_to_that_is_not_installed(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentdistill.training.settings.find_spec", lambda name: None)
    with pytest.raises(AgentDistillError, match="wandb is not installed: pip install wandb"):
        train(EXAMPLES, base, tmp_path / "student", replace(TINY, report_to="wandb"), progress=False)
    assert not (tmp_path / "student").exists()


def test_one_process_trains_on_one_gpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """transformers would spread each pass over all GPUs, which multiplies the batch size."""
    settings = sft_settings(TrainConfig(), tmp_path, 8, Qwen2Config())
    settings._n_gpu = 2
    with caplog.at_level(logging.WARNING):
        one_gpu(settings)
    assert settings.n_gpu == 1 and settings.train_batch_size == settings.per_device_train_batch_size
    assert "torchrun --nproc-per-node 2 -m agentdistill train" in caplog.text


SMALL, SMOLLM, LARGE = (
    {"hidden_size": hidden, "intermediate_size": wide, "num_hidden_layers": layers}
    for hidden, wide, layers in ((64, 192, 3), (576, 1536, 30), (1536, 8960, 28))
)
PASSES = [(SMALL, 256, 8, False), (SMALL, 300, 4, False), (SMOLLM, 256, 2, False), (SMOLLM, 600, 1, False)]
PASSES += [(SMOLLM, 1100, 1, True), (LARGE, 200, 1, False), (LARGE, 500, 1, True), (SMALL, 4097, 1, True)]


@pytest.mark.parametrize(("sizes", "longest", "at_once", "checkpointing"), PASSES)
def test_a_pass_on_a_cpu_is_bounded_by_the_size_of_the_model(
    tmp_path: Path, sizes: dict[str, int], longest: int, at_once: int, checkpointing: bool
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    settings = sft_settings(TrainConfig(), tmp_path, longest, Qwen2Config(**sizes))
    assert (settings.per_device_train_batch_size, settings.gradient_accumulation_steps) == (at_once, 8 // at_once)
    assert settings.gradient_checkpointing == checkpointing
