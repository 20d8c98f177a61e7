"""Sentence encoders: map a text to a vector, so that texts with similar meanings have similar vectors.

An encoder is a transformers model whose last states are averaged, such as all-MiniLM-L6-v2. Imports torch and
transformers.

Not here: encoders that pool in another way, which are refused, or that need a prefix before each text.
"""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from agentdistill.models.device import default_device, default_dtype
from agentdistill.models.model import ModelError
from agentdistill.models.rendering import has_vocabulary
from agentdistill.well_formed import well_formed

MAX_TOKENS = 256
"""Tokens of a text that count, as for all-MiniLM-L6-v2."""

BATCH = 32
"""Texts per call of the model."""


class SentenceEncoder:
    """The encoder in a folder or on the hub. It is thread-safe: calls run one after the other."""

    example: np.ndarray
    """The vector of a fixed text, by which the vectors of different encoders can be told apart."""

    def __init__(self, path_or_id: str) -> None:
        """Raises ModelError if it cannot be loaded, has no tokenizer, or does not average its states."""
        transformers_logging.disable_progress_bar()
        self._device = default_device()
        self._lock = threading.Lock()  # padding is a state of the tokenizer
        try:
            _check_pooling(Path(path_or_id))
            self._tokenizer = AutoTokenizer.from_pretrained(path_or_id)
            if not has_vocabulary(self._tokenizer):
                raise ValueError("it has no tokenizer")
            if not self._tokenizer("")["input_ids"]:
                raise ValueError("its tokenizer adds no special token, so an empty text has no vector")
            model = AutoModel.from_pretrained(path_or_id, dtype=default_dtype(self._device))
            self._model = model.to(self._device).eval()
            self.example = self(["Rome is the capital of Italy."])[0]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
            raise ModelError(f"cannot load the sentence encoder {path_or_id}: {error}") from error

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts. Returns vectors of length 1, float32, shape (texts, dimensions)."""
        by_length = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        vectors = np.empty((len(texts), self._model.config.hidden_size), np.float32)
        for start in range(0, len(texts), BATCH):
            numbers = by_length[start : start + BATCH]
            with self._lock, torch.inference_mode():
                vectors[numbers] = self._encode([well_formed(texts[number]) for number in numbers])
        return vectors

    def _encode(self, texts: list[str]) -> Any:
        length = min(MAX_TOKENS, self._tokenizer.model_max_length)
        inputs = self._tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        inputs = inputs.to(self._device)
        mask = inputs["attention_mask"][..., None]
        means = (self._model(**inputs).last_hidden_state.float() * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(means).cpu().numpy()


def _check_pooling(folder: Path) -> None:
    """Refuse a model of sentence-transformers that does not average its states. Raises ValueError."""
    file = folder / "1_Pooling" / "config.json"
    if file.exists() and not json.loads(file.read_text(encoding="utf-8")).get("pooling_mode_mean_tokens"):
        raise ValueError("it does not average its last states, and only such encoders are supported")
