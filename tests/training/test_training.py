"""Real training of a model with a few thousand parameters: it learns only what it should, and survives a kill."""

import json
import random
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
from test_correction import QUESTIONS, STUDENT, TEACHER

from agentdistill import Task, correct, rollout, select
from agentdistill.models.model import ModelError
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.training.config import TrainConfig
from agentdistill.training.examples import Example
from agentdistill.training.trainer import _held_out, _labelled, train

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from agentdistill.training.likelihood import mean_nll  # noqa: E402  # it imports torch

TINY = TrainConfig(
    method="full",
    learning_rate=1e-2,
    schedule="cosine",
    warmup=0.1,
    beta2=0.98,
    precision="float32",
    epochs=3,
    batch_size=4,
    seed=1,
)
LORA = replace(TINY, method="lora", rank=8, alpha=16, epochs=30)


def example(prompt: str, completion: str) -> dict[str, list[int]]:
    ids = [ord(c) for c in prompt + completion]
    return {"input_ids": ids, "completion_mask": [0] * len(prompt) + [1] * len(completion)}


EXAMPLES = [example(f"{a}+{b}=", f"{a + b}\x03") for a in range(4) for b in range(4)]


def losses(model: Path, examples: list[dict[str, list[int]]]) -> list[float]:
    """Mean loss of each example's completion. The oracle is plain torch."""
    from transformers import AutoModelForCausalLM

    student = AutoModelForCausalLM.from_pretrained(model).eval()
    found = []
    for e in examples:
        ids = torch.tensor([e["input_ids"]])
        with torch.no_grad():
            logprobs = student(input_ids=ids).logits[0, :-1].log_softmax(-1)
        each = -logprobs.gather(1, ids[0, 1:, None])[:, 0]
        found.append(each[torch.tensor(e["completion_mask"][1:], dtype=torch.bool)].mean().item())
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("config", [TINY, LORA], ids=["full", "lora"])
def test_the_student_learns_and_can_be_loaded(base: Path, tmp_path: Path, config: TrainConfig) -> None:
    from transformers import AutoTokenizer

    student = train(EXAMPLES, base, tmp_path / "student", config, progress=False)
    record = json.loads((tmp_path / "student" / "train.json").read_text())
    assert record["result"]["steps"] == len(EXAMPLES) / config.batch_size * config.epochs
    assert record["run"]["learning_rate"] == config.learning_rate
    assert mean(losses(student, EXAMPLES)) < mean(losses(base, EXAMPLES)) - 0.05
    assert AutoTokenizer.from_pretrained(student).encode("1+1") == AutoTokenizer.from_pretrained(base).encode("1+1")
    assert not (tmp_path / "student" / "checkpoints").exists()


def test_a_student_learns_from_its_corrected_errors(tiny_model: Path, tmp_path: Path) -> None:
    """The student rolls out, the teacher corrects it, and training makes the teacher's steps likelier."""
    tasks = [Task(name, question, "3", "counts", "math") for name, question in QUESTIONS.items()]
    wrong = rollout(tasks, STUDENT, config=RolloutConfig(keep_states=True), progress=False)
    kept = select(correct(wrong, TEACHER, progress=False), tmp_path / "kept.jsonl").kept
    config = replace(TINY, learning_rate=1e-3, epochs=2, batch_size=5, prompt="")
    student = train(tmp_path / "kept.jsonl", tiny_model, tmp_path / "student", config, progress=False)
    before, after = (mean_nll(kept, str(model), prompt="") for model in (tiny_model, student))
    assert len(kept) == 5 and all(late < early for early, late in zip(before, after, strict=True))


def test_the_adapter_and_the_merged_model_are_the_same_student(base: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    merged = train(EXAMPLES, base, tmp_path / "student", LORA, progress=False)
    ids = torch.tensor([EXAMPLES[5]["input_ids"]])
    with torch.no_grad():
        adapted = (
            AutoPeftModelForCausalLM.from_pretrained(tmp_path / "student" / "adapter").eval()(input_ids=ids).logits
        )
        whole = AutoModelForCausalLM.from_pretrained(merged).eval()(input_ids=ids).logits
    torch.testing.assert_close(adapted, whole, atol=1e-4, rtol=1e-4)


def test_masked_tokens_have_no_loss(base: Path, tmp_path: Path) -> None:
    """Masked tokens that a causal model does not see before it answers may be anything: the weights are the same."""
    from safetensors.torch import load_file

    def weights(name: str, tail: str) -> dict[str, "torch.Tensor"]:
        examples = [
            {
                "input_ids": [*e["input_ids"], *map(ord, tail)],
                "completion_mask": [*e["completion_mask"], *([0] * len(tail))],
            }
            for e in EXAMPLES
        ]
        student = train(examples, base, tmp_path / name, replace(TINY, epochs=1), progress=False)
        return load_file(student / "model.safetensors")

    one, other = weights("one", "abc"), weights("other", "xyz")
    assert all(torch.equal(one[name], other[name]) for name in one)
    untouched = load_file(base / "model.safetensors")
    assert not torch.equal(one["model.layers.0.mlp.up_proj.weight"], untouched["model.layers.0.mlp.up_proj.weight"])


def test_the_loss_is_the_oracles(base: Path, tmp_path: Path) -> None:
    """The loss reported before the first update is the mean over the learnt tokens of the batch."""
    config = replace(TINY, batch_size=16, epochs=1)
    train(EXAMPLES, base, tmp_path / "student", config, progress=False)
    tokens = [sum(e["completion_mask"]) for e in EXAMPLES]
    expected = sum(loss * n for loss, n in zip(losses(base, EXAMPLES), tokens, strict=True)) / sum(tokens)
    reported = json.loads((tmp_path / "student" / "train.json").read_text())["result"]["losses"]
    assert reported == [pytest.approx(expected, abs=1e-3)]


def per_token_losses(model: "torch.nn.Module", batch: dict[str, "torch.Tensor"]) -> list[float]:
    """The losses of a batch's learnt tokens, by plain torch."""
    labels = batch.pop("labels")[0, 1:]
    with torch.no_grad():
        logprobs = model(**batch, use_cache=False).logits[0, :-1].log_softmax(-1)
    learnt = labels != -100
    return (-logprobs[learnt].gather(1, labels[learnt][:, None]))[:, 0].tolist()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_examples_do_not_see_one_another(base: Path, attention: str) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import pack_dataset
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    student = AutoModelForCausalLM.from_pretrained(base, attn_implementation=attention).eval()
    labelled = Dataset.from_list([_labelled(e, TINY) for e in EXAMPLES])
    packed = pack_dataset(labelled, 24)
    assert len(packed) == 4 and all(len(row["seq_lengths"]) > 1 for row in packed)
    alone = [per_token_losses(student, DataCollatorForLanguageModeling(0)([row])) for row in labelled]
    together = [per_token_losses(student, DataCollatorForLanguageModeling(0, padding_free=True)([r])) for r in packed]
    assert sorted(chain(*together)) == pytest.approx(sorted(chain(*alone)), abs=1e-5)


def test_the_loss_of_packed_examples_is_that_of_each_alone(base: Path, tmp_path: Path) -> None:
    config = replace(TINY, batch_size=4, epochs=1, max_length=24, packing=True)
    train(EXAMPLES, base, tmp_path / "student", config, progress=False)
    tokens = [sum(e["completion_mask"]) for e in EXAMPLES]
    expected = sum(loss * n for loss, n in zip(losses(base, EXAMPLES), tokens, strict=True)) / sum(tokens)
    result = json.loads((tmp_path / "student" / "train.json").read_text())["result"]
    assert (result["steps"], result["losses"]) == (1, [pytest.approx(expected, abs=1e-5)])


def test_packing_is_refused_where_examples_would_see_one_another(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)
    with pytest.raises(ValueError, match="train without packing"):
        train(EXAMPLES, base, tmp_path / "student", replace(TINY, packing=True), progress=False)


WEIGHTED = replace(TINY, batch_size=16, epochs=1, thought_weight=0.5, action_weight=0.0, answer_weight=3.0)


@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_of_each_span_has_its_weight(base: Path, tmp_path: Path, packing: bool) -> None:
    """Of an example's two learnt tokens, the first is a thought, the second an action or an answer."""
    kinds = ["action", "answer"] * (len(EXAMPLES) // 2)
    examples = [{**e, "spans": [("thought", 4, 5), (kind, 5, 6)]} for e, kind in zip(EXAMPLES, kinds, strict=True)]
    config = replace(WEIGHTED, packing=packing, max_length=24)
    train(examples, base, tmp_path / "student", config, progress=False)
    one = [{**e, "completion_mask": [0] * 4 + [1, 0]} for e in EXAMPLES]
    other = [{**e, "completion_mask": [0] * 5 + [1]} for e in EXAMPLES]
    thoughts, acts = losses(base, one), losses(base, other)
    expected = (0.5 * sum(thoughts) + 3.0 * sum(acts[1::2])) / (2 * len(EXAMPLES))
    reported = json.loads((tmp_path / "student" / "train.json").read_text())["result"]["losses"]
    assert reported == [pytest.approx(expected, abs=1e-5)]


@pytest.fixture(scope="module")
def teacher(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with other weights, and its tokenizer."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(5)
    Qwen2ForCausalLM(Qwen2Config.from_pretrained(tiny_model)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


# Two steps each: a thought of two tokens and an action of one, something given, an answer of two.
ROLLOUTS = [
    {
        "input_ids": [random.Random(10 * i + n).randrange(3, 250) for n in range(9)],
        "completion_mask": [0, 0, 1, 1, 1, 0, 0, 1, 1],
        "spans": [("thought", 2, 4), ("action", 4, 5), ("answer", 7, 9)],
    }
    for i in range(8)
]
STEPS = [slice(2, 5), slice(7, 9)]


def logprobs(model: Path) -> "torch.Tensor":
    """The log probability of each token of each rollout, by plain torch; 0 for the first."""
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([e["input_ids"] for e in ROLLOUTS])
    with torch.no_grad():
        known = AutoModelForCausalLM.from_pretrained(model).eval()(input_ids=ids).logits[:, :-1].log_softmax(-1)
    return torch.nn.functional.pad(known.gather(2, ids[:, 1:, None])[:, :, 0], (1, 0))


def distances(model: Path, teacher: Path) -> "torch.Tensor":
    """Mean difference of the log probabilities of each step's tokens."""
    apart = (logprobs(model) - logprobs(teacher)).abs()
    return torch.stack([apart[:, step].mean(dim=1) for step in STEPS], dim=1)


@pytest.mark.parametrize("packing", [False, True])
def test_a_student_approaches_its_teacher_where_it_has_been(
    tiny_model: Path, teacher: Path, tmp_path: Path, packing: bool
) -> None:
    """On-policy distillation: the first loss is the oracle's, and in the end the log probabilities are the
    teacher's."""
    config = replace(TINY, teacher=str(teacher), batch_size=4, epochs=40, packing=packing, max_length=18)
    student = train(ROLLOUTS, tiny_model, tmp_path / "student", config, progress=False)
    before, after = distances(tiny_model, teacher), distances(student, teacher)
    factors = torch.clamp(before.flatten().quantile(0.5, interpolation="midpoint") / before, max=1.0)
    squares = (logprobs(tiny_model) - logprobs(teacher)).square() / 2
    weighted = sum(squares[:, step].sum(dim=1) * factors[:, i] for i, step in enumerate(STEPS))
    result = json.loads((tmp_path / "student" / "train.json").read_text())["result"]
    if packing:  # all in one batch
        assert result["losses"][0] == pytest.approx(float(weighted.sum()) / (5 * len(ROLLOUTS)), rel=1e-4)
    assert after.mean() < before.mean() / 4
    card = (student / "README.md").read_text()
    assert f"| teacher | {teacher.name} |" in card and str(teacher) not in card
    assert result["losses"][-1] < result["losses"][0] / 10


def test_a_teacher_with_another_tokenizer_cannot_judge(base: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another tokenizer"):
        train(ROLLOUTS, tiny_model, tmp_path / "student", replace(TINY, teacher=str(base)), progress=False)


CHILD = """
import os, signal, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + '/training']
from test_training import EXAMPLES, TINY, train
from dataclasses import replace
from transformers import Trainer

whole = Trainer._save_rng_state

def save_or_die(self, folder):
    if self.state.global_step == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    whole(self, folder)

Trainer._save_rng_state = save_or_die
train(EXAMPLES, sys.argv[2], sys.argv[3], replace(TINY, epochs=30, save_steps=20), progress=False)
"""


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been_killed(base: Path, tmp_path: Path) -> None:
    """The kill comes at the worst moment: while the second checkpoint is written."""
    output = tmp_path / "student"
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parents[1]), str(base), str(output)]
    child = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert child.returncode == -signal.SIGKILL
    assert {path.name for path in output.glob("checkpoints/checkpoint-*")} == {"checkpoint-20", "checkpoint-40"}
    assert json.loads((output / "train.json").read_text())["result"] is None
    config = replace(TINY, epochs=30, save_steps=20)
    student = train(EXAMPLES, base, output, config, progress=False)
    result = json.loads((output / "train.json").read_text())["result"]
    assert result["steps"] == 120
    assert result["resumed_from"].endswith("checkpoint-20")
    straight = train(EXAMPLES, base, tmp_path / "straight", config, progress=False)
    assert mean(losses(student, EXAMPLES)) == pytest.approx(mean(losses(straight, EXAMPLES)), abs=0.05)


HELD_OUT = replace(TINY, epochs=40, learning_rate=5e-2, schedule="constant", held_out=0.25, patience=2)


def test_training_stops_when_the_held_out_loss_rises_and_keeps_the_best(base: Path, tmp_path: Path) -> None:
    config = HELD_OUT
    student = train(EXAMPLES, base, tmp_path / "student", config, progress=False)
    result = json.loads((student / "train.json").read_text())["result"]
    measured = result["held_out_losses"]
    assert result["steps"] == 3 * len(measured) < 3 * 40, "12 examples are trained on, 4 at once"
    assert measured.index(min(measured)) == len(measured) - 1 - config.patience
    held_out = random.Random(config.seed).sample(range(16), 4)
    assert mean(losses(student, [EXAMPLES[i] for i in held_out])) == pytest.approx(min(measured), abs=1e-3)


def test_a_student_has_a_card_and_a_plot_and_is_pushed_only_when_asked(base: Path, tmp_path: Path) -> None:
    output = tmp_path / "student"
    student = train(EXAMPLES, base, output, replace(LORA, epochs=1, held_out=0.25), progress=False)
    card = (student / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n") and "| rank | 8 |" in card and "held-out loss" in card
    assert str(tmp_path) not in card and str(base.parent) not in card
    assert (student / "loss.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OSError, match="offline"):  # it is finished and would be pushed now, but tests have no hub
        train(EXAMPLES, base, output, replace(LORA, epochs=1, held_out=0.25), push_to="someone/student", progress=False)


def test_a_finished_run_is_not_run_again(base: Path, tmp_path: Path) -> None:
    output = tmp_path / "student"
    student = train(EXAMPLES, base, output, TINY, progress=False)
    written = (student / "model.safetensors").stat().st_mtime_ns
    assert train(EXAMPLES, base, output, TINY, progress=False) == student
    assert (student / "model.safetensors").stat().st_mtime_ns == written


USELESS = [
    pytest.param([], TINY, "no example", id="none"),
    pytest.param(
        [{"input_ids": [1, 2], "completion_mask": [1, 0]}], TINY, "masks of all examples are 0", id="all-masked"
    ),
    pytest.param([{"input_ids": [1], "completion_mask": [1, 1]}], TINY, "same length", id="mask-length"),
    pytest.param([example("a", "b" * 50)], replace(TINY, max_length=20), "longer than max_length 20", id="too-long"),
    pytest.param([example("a", "b")], WEIGHTED, "no spans", id="no-spans"),
    pytest.param([example("a", "b")], replace(TINY, held_out=0.5), "is less than one", id="too-few-to-hold-out"),
    pytest.param([{"input_ids": [1, 999], "completion_mask": [0, 1]}], TINY, "token id 999", id="foreign-tokens"),
]


@pytest.mark.parametrize(("examples", "config", "message"), USELESS)
def test_examples_that_teach_nothing_are_refused(
    base: Path, tmp_path: Path, examples: list[dict[str, list[int]]], config: TrainConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(examples, base, tmp_path / "student", config, progress=False)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        train(EXAMPLES, tmp_path / "nowhere", tmp_path / "student", TINY)


def test_a_folder_of_another_run_is_refused(base: Path, tmp_path: Path) -> None:
    output = tmp_path / "student"
    train(EXAMPLES, base, output, TINY, progress=False)
    with pytest.raises(ValueError, match=r"another run .*learning_rate 0\.01, not 0\.001"):
        train(EXAMPLES, base, output, replace(TINY, learning_rate=1e-3), progress=False)
    with pytest.raises(ValueError, match=r"another run .*data"):
        train(EXAMPLES[1:], base, output, TINY, progress=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(ValueError, match="not empty"):
        train(EXAMPLES, base, tmp_path / "other", TINY, progress=False)


def test_a_run_that_left_nothing_is_replaced_and_any_other_is_overwritten_when_asked(
    base: Path, tmp_path: Path
) -> None:
    output = tmp_path / "student"
    with pytest.raises(
        ValueError, match="tokenizer"
    ):  # it fails after the folder is claimed, like a run that is out of memory
        train([*EXAMPLES, Example(input_ids=[1, 9999], completion_mask=[0, 1])], base, output, TINY, progress=False)
    assert json.loads((output / "train.json").read_text())["result"] is None
    train(EXAMPLES, base, output, replace(TINY, max_length=64), progress=False)
    done = json.loads((output / "train.json").read_text())
    cheaper = replace(TINY, max_length=32, device_batch_size=1, save_steps=5)
    assert train(EXAMPLES, base, output, cheaper, progress=False) == output  # already finished
    assert json.loads((output / "train.json").read_text()) == done
    train(EXAMPLES, base, output, replace(TINY, epochs=1), overwrite=True, progress=False)
    assert json.loads((output / "train.json").read_text())["run"]["epochs"] == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    with pytest.raises(ValueError, match="contains no training run"):
        train(EXAMPLES, base, tmp_path / "mine", TINY, overwrite=True, progress=False)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_examples_of_a_question_are_held_out_together() -> None:
    examples = [Example(input_ids=[1], completion_mask=[1], question=f"q{n // 3}") for n in range(30)]
    for seed in range(10):
        held_out = _held_out(examples, TrainConfig(held_out=0.2, seed=seed))
        assert len(held_out) == 6 and all({n - n % 3 + i for i in range(3)} <= held_out for n in held_out)
    with pytest.raises(ValueError, match="all examples are of one question"):
        _held_out(examples[:3], TrainConfig(held_out=0.5))


def test_bfloat16_trains_float32_weights(base: Path, tmp_path: Path) -> None:
    student = train(
        EXAMPLES, base, tmp_path / "s", replace(TINY, precision="bfloat16", group_by_length=True), progress=False
    )
    assert mean(losses(student, EXAMPLES)) < mean(losses(base, EXAMPLES)) - 0.5
    assert json.loads((student / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "dora"},
        {"report_to": "somewhere"},
        {"shard": True, "method": "qlora"},
        {"lora_config": ("use_rslora=true",), "method": "full"},
        {"precision": "float16"},
        {"rank": 0},
        {"dropout": 1.0},
        {"learning_rate": -1.0},
        {"save_steps": 0},
        {"device_batch_size": 3},
        {"thought_weight": -1.0},
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**wrong)  # type: ignore[arg-type]
