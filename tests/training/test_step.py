"""An optimizer step is the same however its examples are grouped into passes."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_training import LORA, TINY, losses

from agentdistill.training.config import TrainConfig
from agentdistill.training.examples import Example
from agentdistill.training.trainer import train

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from agentdistill.training import step  # noqa: E402  # it imports torch

LETTERS = random.Random(3)
EXAMPLES = [
    Example(
        input_ids=[LETTERS.randrange(32, 127) for _ in range(length)],
        completion_mask=[n >= length // 3 and n % 5 != 4 for n in range(length)],  # type: ignore[misc]
        spans=[("thought", length // 3, length - 1), ("action", length - 1, length)],  # type: ignore[list-item]
    )
    for length in (3, 40, 7, 22, 9, 31, 14, 5, 28, 11, 37, 4, 18, 6, 25, 12)
]


def padded(rows: list[list[int]]) -> dict[str, "torch.Tensor"]:
    """Rows padded as by TRL's collator."""
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [7] * (width - len(row)) for row in rows]),
        "labels": torch.tensor([row + [-100] * (width - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }


@given(
    st.lists(st.lists(st.integers(8, 99), min_size=1, max_size=9), min_size=1, max_size=12), st.sampled_from([1, 2, 3])
)
def test_passes_of_like_length_are_the_same_examples_with_the_least_padding(rows: list[list[int]], size: int) -> None:
    passes = [padded(rows[n : n + size]) for n in range(0, len(rows), size)]
    made = step.by_length(passes)
    kept = [
        ids[mask.bool()].tolist()
        for one in made
        for ids, mask in zip(one["input_ids"], one["attention_mask"], strict=True)
    ]
    assert sorted(kept) == sorted(rows)
    assert [len(one["labels"]) for one in made] == [len(one["labels"]) for one in passes]
    if len(passes) > 1:
        lengths = sorted(map(len, rows))
        widths = [max(lengths[n : n + size]) for n in range(0, len(rows), size)]
        assert [one["labels"].shape[1] for one in made] == widths
    for one in made:
        assert torch.equal(one["labels"] == -100, one["attention_mask"] == 0)


@pytest.mark.parametrize("weights", [{}, {"thought_weight": 0.5, "action_weight": 2.0}], ids=["plain", "weighted"])
def test_the_student_is_the_same_however_a_step_is_computed(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: dict[str, float]
) -> None:
    """One example per pass, two or four of similar length, or all eight; with the logits of the learnt tokens, or TRL's
    head."""
    from safetensors.torch import load_file

    config = replace(TINY, batch_size=8, epochs=2, learning_rate=1e-3, **weights)
    students = []
    for at_once, most_logits in [(1, 1 << 26), (2, 1 << 26), (4, 1 << 26), (8, 1 << 26), (2, 0), (8, 600)]:
        monkeypatch.setattr(step, "MAX_LOGITS", most_logits)
        output = tmp_path / f"{at_once}-{most_logits}"
        train(EXAMPLES, base, output, replace(config, device_batch_size=at_once), progress=False)
        students.append((load_file(output / "model.safetensors"), json.loads((output / "train.json").read_text())))
    (weights_of_one, known), *others = students
    for other, run in others:
        assert run["result"]["losses"] == pytest.approx(known["result"]["losses"], abs=1e-5)
        for name, values in weights_of_one.items():
            torch.testing.assert_close(other[name], values, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("config", [TINY, LORA], ids=["full", "lora"])
def test_held_out_losses_are_the_oracle_s(base: Path, tmp_path: Path, config: TrainConfig) -> None:
    config = replace(config, epochs=1, held_out=0.1, device_batch_size=1)
    student = train(EXAMPLES, base, tmp_path / "student", config, progress=False)
    (measured,) = json.loads((tmp_path / "student" / "train.json").read_text())["result"]["held_out_losses"]
    (held_out,) = random.Random(config.seed).sample(range(16), 1)
    assert losses(student, [EXAMPLES[held_out]]) == [pytest.approx(measured, abs=1e-3)]  # type: ignore[list-item]
