"""Load a model's weights and tokenizer with transformers, from a folder, a hub or a GGUF file.

Not here: running a model (transformers.py) and training it (training/trainer.py).
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from agentdistill.extras import require
from agentdistill.models.device import default_dtype
from agentdistill.models.loading import ModelFiles, is_gguf, model_files
from agentdistill.models.model import ModelError
from agentdistill.models.rendering import require_template


def load(path_or_id: str, device: str, **options: Any) -> tuple[Any, Any]:
    """Load a model and its tokenizer, ready to run. An adapter is merged into its base. ``options`` are passed to
    ``from_pretrained``. Raises ModelError if the model does not exist or cannot be loaded."""
    where = {"gguf_file": Path(path_or_id).name} if is_gguf(path_or_id) else {}
    if where:
        require("gguf", "gguf")
        files = ModelFiles(str(Path(path_or_id).expanduser().parent), None)
    else:
        files = model_files(path_or_id)
    transformers_logging.disable_progress_bar()  # loading takes a second or two
    try:
        options = {"dtype": default_dtype(device)} | options
        model = AutoModelForCausalLM.from_pretrained(files.model, **where, **options)
        if files.adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, files.adapter).merge_and_unload()
        own = files.adapter and (Path(files.adapter) / "tokenizer_config.json").exists()
        tokenizer = AutoTokenizer.from_pretrained(files.adapter if own else files.model, **where)
        model = model.to(device).eval()
    except Exception as error:  # of any type: transformers documents none, and damaged files raise those of each format
        if is_out_of_memory(error):
            raise ModelError(
                f"not enough memory on {device} for {path_or_id}: use a smaller model, fewer bits per "
                f"weight (transformers:{path_or_id},dtype=bfloat16), or another device (,device=cpu)"
            ) from error
        raise ModelError(f"cannot load {path_or_id}: {error}") from error
    require_template(tokenizer, path_or_id)
    return model, tokenizer


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or this machine ran out of memory. On a CPU, torch raises a plain RuntimeError for that."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
