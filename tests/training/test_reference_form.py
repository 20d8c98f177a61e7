"""Logs of the paper's code: converted, learnt and evaluated in its form, equal token by token.

The logs are written here in the format of its code (smolagents' memory as written by its ``save_memory_to_logs``), from
what each step printed, returned and raised. Of our own code, only the search is used to make them.
"""

import ast
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agentdistill import Bm25Index, RolloutConfig, Task, Trajectory, convert, evaluate, read_trajectories, select, train
from agentdistill.demo.run import BASE
from agentdistill.distillation import SelectConfig
from agentdistill.models.model import Message
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts import reference
from agentdistill.rollouts.engine import rollout
from agentdistill.tools.tool import web_search
from agentdistill.training.config import TrainConfig
from agentdistill.training.examples import Example, load_tokenizer, to_examples
from agentdistill.training.forms import message_after

pytest.importorskip("trl", reason="needs agentdistill[train]")

IN_THEIR_FORM = RolloutConfig(compat="reference", max_steps=3)


class Logged(NamedTuple):
    """One step of a log."""

    text: str
    printed: str = ""
    value: str | None = None
    error: str | None = None


def code(text: str) -> str:
    return f"Thought: I act.\nCode:\n```py\n{text}\n```<end_code>"


def unparsed(text: str) -> str:
    """The paper's code parses with ``ast.parse`` and shows its error."""
    with pytest.raises(SyntaxError) as raised:
        ast.parse(text)
    error = raised.value
    shown = f"{error.text}{' ' * (error.offset or 0)}^"
    return f"Code parsing failed on line {error.lineno} due to: SyntaxError\n{shown}\nError: {error}"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Bm25Index:
    passages = [("1", "Zalto", "Zalto was founded in 1904."), ("2", "Quin", "Quin was founded by Zalto's heirs.")]
    return Bm25Index.build(passages, tmp_path_factory.mktemp("index") / "index")


@pytest.fixture(scope="module")
def episodes(index: Bm25Index) -> dict[str, list[Logged]]:
    """Question -> the steps of its log; the last is a final answer or a last word."""
    found = "\nRetrieved documents:"
    for rank, passage in enumerate(index.search("Zalto founded", 3)):
        heading = f"\n\n===== Document {rank}, similarity: {passage.score:.2f} =====\n"
        found += f'{heading}"{passage.title}"\n{passage.text}'
    raised = "Code execution failed at line 'y = x / 0' due to: ZeroDivisionError: division by zero"
    return {
        "When was Zalto founded?": [
            Logged(code('print(web_search("Zalto founded"))'), printed=f"{found}\n"),
            Logged(code('final_answer("1904")'), value="1904"),
        ],
        "What is 6 * 7?": [
            Logged(code("x = 6\nprint(x)\ny = x / 0"), printed="6\n", error=raised),
            Logged(code('print("so", end="")\nx * 7'), printed="so", value="42"),
            Logged(code("final_answer(x * 7)"), value="42"),
        ],
        "Who founded Quin?": [
            Logged(code("'heirs'"), value="heirs"),
            Logged(code("1 +"), error=unparsed("1 +")),
            Logged(code("print([1, 2])"), printed="[1, 2]\n"),
            Logged("Zalto's heirs"),
        ],
    }


def log_of(question: str, steps: Sequence[Logged]) -> dict[str, Any]:
    """A line as the paper's code writes it."""

    def message(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}]}

    reminder = "\n\nIMPORTANT: (the reminder of its code, in its own words)"
    system = "You have these tools:\n- web_search: finds.\n- final_answer: ends.\n\nNow Begin!"
    messages = [message("system", system), message("user", f"New task:\n{question}{reminder}")]
    is_word = "```" not in steps[-1].text
    for number, step in enumerate(steps[:-1] if is_word else steps, start=1):
        messages += [message("assistant", step.text), message("tool-call", "Calling tools:\n[...]")]
        call = f"Call id: call_{number}\n"
        seen = f"{call}Observation:\nExecution logs:\n{step.printed}"
        if step.error is None:
            messages.append(message("tool-response", f"{seen}Last output from code snippet:\n{step.value}"))
        else:
            said = f"{call}Error:\n{step.error}\nNow let's retry: (the words of its code)\n"
            messages += [message("tool-response", seen)] if step.printed else []
            messages.append(message("tool-response", said))
    memory: list[dict[str, Any]] = [{}]
    if is_word:
        asked = message("user", f"Based on the above (its words):\n{question}")
        history = [message("system", "An agent got stuck (its words)"), *messages[1:], asked]
        memory.append({"messages": [*history, message("assistant", steps[-1].text)]})
    answer = steps[-1].value or steps[-1].text
    return {
        "model_id": "teacher",
        "question": question,
        "generated_answer": answer,
        "true_answer": answer,
        "score": 1.0,
        "log_data": {"messages": messages, "original_memory": {"steps": memory}, "metadata": {}},
    }


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, episodes: dict[str, list[Logged]]) -> Path:
    """The logs, converted and selected."""
    folder = tmp_path_factory.mktemp("logs")
    lines = [json.dumps(log_of(question, steps)) for question, steps in episodes.items()]
    (folder / "logs.jsonl").write_text("\n".join(lines) + "\n")
    convert(folder / "logs.jsonl", folder / "traj.jsonl", progress=False)
    assert len(select(folder / "traj.jsonl").kept) == 2, "an answer given as a last word is not kept by default"
    select(folder / "traj.jsonl", folder / "kept.jsonl", SelectConfig(last_words=True))
    return folder / "kept.jsonl"


def prompts(examples: Sequence[Example]) -> list[list[int]]:
    """The prompt of each turn that a model learns."""

    def starts(mask: list[int]) -> Iterator[int]:
        return (at for at in range(1, len(mask)) if mask[at] and not mask[at - 1])

    return [example["input_ids"][:at] for example in examples for at in starts(example["completion_mask"])]


def test_what_a_step_of_a_log_did_is_known(kept: Path, episodes: dict[str, list[Logged]]) -> None:
    for trajectory in read_trajectories(kept):
        assert trajectory.sampling["compat"] == "reference"
        steps = episodes[trajectory.question]
        assert [step.candidates[0].text for step in trajectory.steps] == [step.text for step in steps]
        for step, logged in zip(trajectory.steps[:-1], steps, strict=False):
            seen = step.candidates[0].observation
            assert seen is not None
            assert (seen.stdout, seen.value, seen.error) == (logged.printed, logged.value, logged.error)
        word = "```" not in steps[-1].text
        assert (trajectory.outcome, trajectory.answer) == (
            "out_of_steps" if word else "final_answer",
            steps[-1].value or steps[-1].text,
        )


def test_prompts_of_training_and_evaluation_are_the_same_token_by_token(
    kept: Path, episodes: dict[str, list[Logged]], index: Bm25Index
) -> None:
    tokenizer = load_tokenizer(str(BASE / "S"))
    given: dict[str, list[list[int]]] = {question: [] for question in episodes}

    def replay(messages: Sequence[Message], prefix: str, number: int) -> str:
        question = next(question for question in episodes if any(question in message.content for message in messages))
        turn = len([message for message in messages if message.role == "assistant"])
        shown = [message._asdict() for message in messages]
        text = tokenizer.apply_chat_template(shown, tokenize=False, add_generation_prompt=True)
        given[question].append(list(tokenizer(text, add_special_tokens=False)["input_ids"]))
        return episodes[question][turn].text.removesuffix("<end_code>")  # the engine stops there

    tasks = [Task(question, question, steps[-1].value or steps[-1].text) for question, steps in episodes.items()]
    evaluate(tasks, ScriptedModel("m", replay), [web_search(index)], IN_THEIR_FORM, progress=False)
    for trajectory in read_trajectories(kept):
        made = to_examples([trajectory], tokenizer, compat="reference")
        assert not made.dropped and not made.cut
        assert prompts(made.examples) == given[trajectory.question]


def test_a_student_of_their_logs_is_asked_in_their_form(
    kept: Path, index: Bm25Index, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = TrainConfig(compat="reference", method="full", epochs=1, batch_size=2)
    with caplog.at_level(logging.WARNING):
        student = train(kept, BASE / "S", tmp_path / "student", config, progress=False)
    assert [record.message for record in caplog.records if "from other programs" in record.message]
    trajectory = min(read_trajectories(kept), key=lambda trajectory: trajectory.question)
    learnt = prompts(to_examples([trajectory], load_tokenizer(str(student)), compat="reference").examples)
    task = Task("1", trajectory.question, trajectory.answer)
    short = RolloutConfig(compat="reference", max_steps=1, max_tokens=4, last_word=False)
    caplog.clear()
    model, search = f"transformers:{student}", [web_search(index)]
    evaluate([task], model, search, short, output=tmp_path / "results", progress=False)
    assert not caplog.records
    [step] = read_trajectories(tmp_path / "results" / "trajectories.jsonl")[0].steps
    assert list(step.prompt_token_ids or ()) == learnt[0]
    evaluate([task], model, (), RolloutConfig(max_steps=1, max_tokens=4, last_word=False), progress=False)
    assert "trained with another prompt and tools and compat" in caplog.text


def test_their_logs_are_learnt_in_our_form_if_nothing_is_said(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = load_tokenizer(str(BASE / "S"))
    known = {trajectory.question: trajectory for trajectory in read_trajectories(kept)}
    [example] = to_examples([known["When was Zalto founded?"]], tokenizer).examples
    text = tokenizer.decode(example["input_ids"])
    assert "Observation:\n[1] Zalto\nZalto was founded in 1904.\n[2] Quin" in text and "def web_search" in text
    assert "=====" not in text and "Execution logs" not in text and "New task" not in text


def test_an_episode_in_their_form_is_told_again_as_it_was(index: Bm25Index, tmp_path: Path) -> None:
    """The messages rewritten from what the cells did equal the recorded ones: nothing else determines them."""
    turns = [code("print(web_search('Zalto'))"), "no code", code("1 +"), code("x = 1\n'y' * 30_000"), code("1/0")]

    def act(messages: Sequence[Message], prefix: str, number: int) -> str:
        return turns[len([message for message in messages if message.role == "assistant"])]

    config, output = RolloutConfig(compat="reference", max_steps=4), tmp_path / "t.jsonl"
    task, tools = Task("1", "Who?", "x"), [web_search(index)]
    [played] = rollout([task], ScriptedModel("m", act), tools, config, output=output, progress=False)
    [again] = rollout([task], f"recorded:{output}", tools, config, progress=False)
    assert [step.message for step in again.steps] == [step.message for step in played.steps], "a replay finds its steps"
    assert len(played.steps) == 5
    for number, step in enumerate(played.steps[:-1]):
        assert message_after(played, number, "reference") == step.message
    assert "characters are left out here" in played.steps[3].message
    assert isinstance(played, Trajectory) and played.steps[0].message.startswith("Call id: call_1\nObservation:\n")
    assert reference.in_our_form(played.steps[0].message).count("=====") == 0
