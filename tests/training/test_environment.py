"""Our tasks and sandbox as an environment of TRL: the real trainer, and a tiny model that learnt to call the tool."""

import inspect
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
    tool = type(environment(TASKS, [python_tool(double)])()).python  # type: ignore[attr-defined]
    function = transformers.utils.get_json_schema(tool)["function"]
    assert function["name"] == "python" and function["parameters"]["required"] == ["code"]
    assert "Twice the number." in function["description"] and "final_answer" in function["description"]


CALLS = '<tool_call>\n{"name": "python", "arguments": {"code": "final_answer(6 * 7)"}}\n</tool_call>'


def learn(model: Any, tokenizer: Any, conversation: list[dict[str, Any]], tool: Any) -> None:
    """Train the model until it says what the assistant says in a conversation."""
    import torch

    shown = tokenizer.apply_chat_template(conversation, tools=[tool], tokenize=False)
    ids = torch.tensor([tokenizer(shown, add_special_tokens=False)["input_ids"]])
    labels = torch.full_like(ids, -100)
    for said in (f"{CALLS}<|im_end|>", "Done.<|im_end|>"):
        part = tokenizer(said, add_special_tokens=False)["input_ids"]
        start = next(i for i in range(ids.shape[1] - 1, -1, -1) if ids[0, i : i + len(part)].tolist() == part)
        labels[0, start : start + len(part)] = ids[0, start : start + len(part)]
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(500):
        loss = model(input_ids=ids, labels=labels).loss
        if loss < 0.003:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError(f"the tiny model has not learnt to call the tool: loss {loss}")


def test_the_real_trainer_runs_the_tool_and_gets_the_reward(tiny_model: Path, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="needs agentdistill[train]")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    templates = Path(inspect.getfile(trl)).parent / "chat_templates"
    tokenizer.chat_template = (templates / "qwen2_5.jinja").read_text(encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    make = environment(TASKS[:1])
    arguments = {"code": "final_answer(6 * 7)"}
    conversation = [
        *rows(TASKS)[0]["prompt"],
        {
            "role": "assistant",
            "tool_calls": [{"type": "function", "function": {"name": "python", "arguments": arguments}}],
        },
        {"role": "tool", "name": "python", "content": "Final answer: 42"},
        {"role": "assistant", "content": "Done."},
    ]
    learn(model, tokenizer, conversation, type(make()).python)  # type: ignore[attr-defined]
    settings = trl.GRPOConfig(
        str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        num_generations=2,
        max_completion_length=300,
        temperature=0.01,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
    )
    trainer = trl.GRPOTrainer(
        model, args=settings, train_dataset=Dataset.from_list(rows(TASKS[:1])), processing_class=tokenizer,
        environment_factory=make,
    )  # fmt: skip
    trainer.train()
    [logged] = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert logged["reward"] == 1 and logged["tools/call_frequency"] == 1 and logged["tools/failure_frequency"] == 0
