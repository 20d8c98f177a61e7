"""Our tasks and sandbox as an environment of TRL, with the real trainer."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from agentdistill import Limits, Task
from agentdistill.tools.tool import python_tool
from agentdistill.training.environment import environment, rows

TASKS = [Task("six", "What is 6 * 7?", "42", kind="math"), Task("four", "What is 2 + 2?", "4", kind="math")]


def double(n: int) -> int:
    """Double a number.

    Args:
        n: The number.

    Returns:
        Twice the number.
    """
    return 2 * n


def test_a_rollout() -> None:
    make = environment(TASKS, [python_tool(double)], limits=Limits(seconds=0.5))
    one, other = make(), make()
    one.reset(**rows(TASKS)[0])
    other.reset(**rows(TASKS)[1])
    for rollout in (one, other):
        run: Any = rollout.python  # type: ignore[attr-defined]
        assert run(code="x = double(21)\nx") == "Value: 42"
        assert run(code="print(x)") == "42"
        assert "ZeroDivisionError" in run(code="1 / 0") and "took too long" in run(code="while True: pass")
        assert rollout.get_reward() == 0
        assert run(code="final_answer(x)") == "Final answer: 42"
    assert (one.get_reward(), other.get_reward()) == (1, 0)
    one.reset(**rows(TASKS)[0])
    assert one.get_reward() == 0 and "NameError" in one.python(code="x")  # type: ignore[attr-defined]


def test_a_task_without_an_answer_has_no_reward() -> None:
    with pytest.raises(ValueError, match="'a' has no answer"):
        environment([Task("a", "Why?")])


def test_the_tool_is_described_to_a_model() -> None:
    transformers = pytest.importorskip("transformers", reason="needs agentdistill[train]")
    tool = environment(TASKS, [python_tool(double)])().python  # type: ignore[attr-defined]
    function = transformers.utils.get_json_schema(tool)["function"]
    assert function["name"] == "python" and function["parameters"]["required"] == ["code"]
    assert "Twice the number." in function["description"] and "final_answer" in function["description"]


def test_the_real_trainer_runs_the_tool_and_gets_the_reward(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is sampled is scripted: two rollouts call the tool, and one of them is right."""
    trl = pytest.importorskip("trl", reason="needs agentdistill[train]")
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    templates = Path(inspect.getfile(trl)).parent / "chat_templates"
    tokenizer.chat_template = (templates / "qwen2_5.jinja").read_text(encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    before = {name: weights.clone() for name, weights in model.named_parameters()}

    def call(code: str) -> str:
        return f"<tool_call>\n{json.dumps({'name': 'python', 'arguments': {'code': code}})}\n</tool_call><|im_end|>"

    turns = [[call("final_answer(6 * 7)"), call("final_answer(6 + 7)")], ["Done.<|im_end|>"] * 2]
    seen = []

    def sampled(input_ids: Any, **_: Any) -> Any:
        seen.append(tokenizer.decode(input_ids[0]))
        said = tokenizer(turns.pop(0), add_special_tokens=False, padding=True, return_tensors="pt")["input_ids"]
        return torch.cat([input_ids, said], dim=1)

    monkeypatch.setattr(model, "generate", sampled)
    settings = trl.GRPOConfig(
        str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        num_generations=2,
        max_completion_length=400,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
    )
    data = Dataset.from_list(rows(TASKS[:1]))
    make = environment(TASKS[:1])
    trainer = trl.GRPOTrainer(
        model, args=settings, train_dataset=data, processing_class=tokenizer, environment_factory=make
    )
    trainer.train()
    [logged] = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert logged["reward"] == 0.5 and logged["tools/call_frequency"] == 1 and logged["tools/failure_frequency"] == 0
    assert "What is 6 * 7?" in seen[0] and "Final answer: 42" in seen[1]
    assert any(not torch.equal(before[name], weights) for name, weights in model.named_parameters())
