"""How is a student loaded to be trained, and how is it written when it has learnt?

Not here: what is learnt, and the checkpoints on the way.
"""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.distributed import DistributedConfig
from transformers.utils import is_flash_attn_2_available

from agentdistill._core import AgentDistillError
from agentdistill.extras import need
from agentdistill.models.device import default_device
from agentdistill.training.config import TrainConfig
from agentdistill.training.run_folder import is_first, processes


def load_student(model: str, config: TrainConfig, *, bfloat16: bool) -> Any:
    """The model to train. What is trained needs float32, since small updates vanish in less; weights that an adapter is
    put on may have the precision of the arithmetic, or 4 bits."""
    dtype = torch.bfloat16 if config.adapts and bfloat16 else torch.float32
    four_bits: dict[str, Any] = {}
    if config.method == "qlora":
        quantized = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        four_bits = {"quantization_config": quantized, "device_map": {"": default_device()}}
    return AutoModelForCausalLM.from_pretrained(
        model,
        dtype=dtype,
        attn_implementation="flash_attention_2" if is_flash_attn_2_available() else None,
        distributed_config=DistributedConfig(fsdp_size=processes()) if config.shard else None,
        **four_bits,
    )


def check_four_bits() -> None:
    """Raise AgentDistillError where weights cannot be kept in 4 bits: without bitsandbytes, or where it has nothing for
    this machine's GPU or CPU."""
    need("bitsandbytes", "qlora")
    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        dequantize_4bit(*quantize_4bit(torch.ones(64, 64, device=default_device()), quant_type="nf4"))
    except (ImportError, RuntimeError, NotImplementedError, OSError) as error:
        raise AgentDistillError(
            f"bitsandbytes cannot keep weights in 4 bits on {default_device()} here ({error}): train by lora"
        ) from error


def check_separation(model: Any) -> None:
    """Raise ValueError for a model to which the examples of one row are one text.

    Where one ends, only position ids say. Attention over a row heeds them (transformers' masks, flash attention); other
    ways to mix tokens, and models with code of their own, may not.
    """
    where = model.device
    positions = torch.tensor([[0, 1, 0, 1]], device=where)
    model.eval()
    with torch.no_grad():
        second, after_another = (
            model(input_ids=torch.tensor([[*first, 2, 3]], device=where), position_ids=positions, use_cache=False)
            for first in ([0, 1], [1, 0])
        )
    if not torch.allclose(second.logits[:, 2:], after_another.logits[:, 2:]):
        raise ValueError(f"{type(model).__name__} would see one packed example from the next: train without packing")


def save_student(model: Any, base: str, tokenizer: Any, output: Path, config: TrainConfig) -> Path:
    """Write the student; where it is to be loaded from. All processes call this, and the first writes."""
    student = output if config.method == "full" else output / "merged"
    if config.method == "full":
        if config.shard or is_first():  # all have to give their shards
            model.save_pretrained(output)
    elif is_first():
        # Its own weights are whole in each process. Unless they are given, peft gathers those of the base, from all.
        learnt = {name: weights for name, weights in model.named_parameters() if weights.requires_grad}
        model.save_pretrained(output / "adapter", state_dict=learnt)
        tokenizer.save_pretrained(output / "adapter")
        # Of shards or of 4 bits, the base is loaded anew: what it is merged into is whole, and as it was.
        anew = config.shard or config.method == "qlora"
        whole = _with_adapter(base, output / "adapter") if anew else model
        whole.merge_and_unload().save_pretrained(student)
    if is_first():
        tokenizer.save_pretrained(student)
    return student


def _with_adapter(base: str, adapter: Path) -> Any:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), str(adapter))
