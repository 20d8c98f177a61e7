"""The vectors of an index's passages, in a folder of their own.

``model.json`` names the encoder. To two other files vectors are appended: ``texts`` has a fingerprint of each text (64
bits), and ``vectors`` its vector (float16). A vector belongs to a text and not to a place in an index. So it remains
valid when passages are added to an index, deleted from it, or merged, and an interrupted run continues after the last
complete vector.

Not here: searching (hybrid.py).
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from agentdistill._core import Bm25Index, Passage, RetrievalError
from agentdistill.files.replacing import replacing
from agentdistill.models.encoder import SentenceEncoder
from agentdistill.progress import FileProgress

BATCH = 1024
"""Passages that are encoded between two writes to the disk."""


class Vectors:
    """The vectors in a folder, as they are when it is opened."""

    model: str
    """The encoder's folder or hub id."""

    def __init__(self, folder: str | Path) -> None:
        """Raises RetrievalError if the folder has no vectors or is damaged."""
        self.folder = Path(folder)
        try:
            known = json.loads((self.folder / "model.json").read_text(encoding="utf-8"))
            self.model, self._example = str(known["model"]), np.array(known["example"], np.float32)
            size = len(self._example)
            texts = np.fromfile(self.folder / "texts", "<u8")
            count = min(len(texts), (self.folder / "vectors").stat().st_size // (2 * size))
            self._order = np.argsort(texts[:count])
            self._texts = texts[self._order]
            self._vectors: Any = np.zeros((0, size), "<f2")  # an empty file cannot be mapped
            if count:
                self._vectors = np.memmap(self.folder / "vectors", "<f2", "r", shape=(count, size))
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise RetrievalError(f"{folder} has no vectors that `agentdistill index encode` wrote: {error}") from error

    def __len__(self) -> int:
        return len(self._texts)

    def check(self, encoder: SentenceEncoder) -> None:
        """Raise RetrievalError if the vectors are those of another encoder."""
        same = encoder.example.shape == self._example.shape
        if not same or encoder.example @ self._example < 0.99:  # about 1 for the same encoder in another dtype
            raise RetrievalError(f"{self.folder} has the vectors of another model: encode into another folder")

    def find(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Look up texts. Returns which of them have a vector, and these vectors (float32). Raises RetrievalError if
        one is damaged."""
        wanted = _fingerprints(texts)
        places = np.searchsorted(self._texts, wanted)
        found = places < len(self)
        found[found] = self._texts[places[found]] == wanted[found]
        vectors = self._vectors[self._order[places[found]]].astype(np.float32)
        if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=0.01):
            raise RetrievalError(f"{self.folder} is damaged: delete it and repeat `agentdistill index encode`")
        return found, vectors

    def of(self, passages: Sequence[Passage], encoder: SentenceEncoder) -> np.ndarray:
        """Vectors of passages, one a row (float32). Those that are missing are computed. Raises as ``find``."""
        texts = [text_of(passage) for passage in passages]
        found, known = self.find(texts)
        vectors = np.empty((len(texts), known.shape[1]), np.float32)
        vectors[found] = known
        vectors[~found] = encoder([texts[number] for number in np.flatnonzero(~found)])
        return vectors


def text_of(passage: Passage) -> str:
    """What is encoded of a passage."""
    return f"{passage.title}\n{passage.text}"


def encode(index: Bm25Index, model: str, folder: str | Path, progress: FileProgress | None = None) -> Vectors:
    """Compute the vectors of those passages of an index that have none in the folder, and append them.

    ``model`` is the encoder's folder or hub id. Raises ModelError if it cannot be loaded; RetrievalError if the folder
    is used by another process or has other files or the vectors of another model.
    """
    folder, encoder = Path(folder), SentenceEncoder(model)
    folder.mkdir(parents=True, exist_ok=True)
    described = folder / "model.json"
    if not described.exists() and any(file.stat().st_size for file in folder.iterdir()):
        raise RetrievalError(f"{folder} is not a folder of vectors: give another folder")
    with (folder / "texts").open("ab") as texts, (folder / "vectors").open("ab") as vectors:
        try:
            fcntl.flock(texts, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RetrievalError(f"{folder}: another process is writing vectors here") from None
        if described.exists():
            Vectors(folder).check(encoder)
        path = os.path.abspath(model) if Path(model).exists() else model
        with replacing(described) as new:
            new.write_text(json.dumps({"model": path, "example": encoder.example.tolist()}), encoding="utf-8")
        known = Vectors(folder)
        texts.truncate(8 * len(known))
        vectors.truncate(2 * len(encoder.example) * len(known))
        done = 0
        for batch in _batches(map(text_of, index)):
            has_vector, _ = known.find(batch)
            missing = list(dict.fromkeys(batch[number] for number in np.flatnonzero(~has_vector)))
            for file, data in ((vectors, encoder(missing).astype("<f2")), (texts, _fingerprints(missing))):
                file.write(data.tobytes())
                file.flush()
                os.fsync(file.fileno())
            done += len(batch)
            if progress is not None:
                progress(done, done / len(index))
    return Vectors(folder)


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(texts, BATCH)):
        yield batch


def _fingerprints(texts: Sequence[str]) -> np.ndarray:
    digests = [blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), "<u8")
