"""Other programs' trajectories: the real programs write what is read here, and read what is written here.

tests/rust/formats.rs has round trips of arbitrary trajectories, and errors in files. One file of more than 500 lines,
because every format is compared on the same recorded trajectories.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentdistill import (
    Task,
    Trajectory,
    TrajectoryError,
    convert,
    iter_trajectories,
    read_trajectories,
    rollout,
    select,
)
from agentdistill._core import Action
from agentdistill.cli import main
from agentdistill.files.formats import COLUMNS, Format
from agentdistill.models.model import Message
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.rollouts.prompt import assistant_turn
from agentdistill.trajectories import write_trajectories

FORMATS: tuple[Format, ...] = Format.__args__  # type: ignore[attr-defined]
TURNS = (
    "Thought: I multiply.\nCode:\n```py\nx = 6 * 7\nprint(x)\n```<end_code>\nObservation: made up",
    "```py\nx / 0\n```",
    "I give up.",
    "Thought: It is 42.\nCode:\n```py\nfinal_answer(x)\n```",
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of real trajectories: one wrong, one with a turn that does not parse, one correct."""
    path = tmp_path_factory.mktemp("recorded") / "traj.jsonl"

    def policy(messages: Sequence[Message], *_: object) -> str:
        turn = len(messages) // 2 - 1
        return TURNS[turn] if turn != 2 or "(1)" in messages[1].content else TURNS[0]

    model = ScriptedModel("scripted", policy)
    tasks = [Task(f"t{i}", f"What is 6 times 7? ({i})", "42" if i else "43", "sums", "math") for i in range(3)]
    done = rollout(tasks, model, output=path, progress=False)
    assert [trajectory.score for trajectory in sorted(done, key=lambda one: one.task_id)] == [0, 1, 1]
    return path


def said(trajectory: Trajectory) -> list[tuple[str, str]]:
    return [(assistant_turn(step.candidates[step.winner]), step.message) for step in trajectory.steps]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ""])
@pytest.mark.parametrize("target", FORMATS)
def test_trajectories_come_back_from_every_format(target: Format, suffix: str, recorded: Path, tmp_path: Path) -> None:
    there, back = tmp_path / f"there{suffix}", tmp_path / "back.jsonl"
    ours = read_trajectories(recorded)
    done = convert(recorded, there, target=target, progress=False)
    steps = sum(len(trajectory.steps) for trajectory in ours)
    assert done == (3, steps if target == "prompt-completion" else 3)
    convert(there, back, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.jsonl", there.name], "nothing else is left"
    # In prompt-completion, each step is a record and comes back as a trajectory; an episode's last one has all steps.
    read = [trajectory for trajectory in read_trajectories(back) if trajectory.outcome == "final_answer"]
    for before, after in zip(ours, read, strict=True):
        assert said(after) == said(before)
        assert after.messages == before.messages
        assert (after.question, after.answer, after.score) == (before.question, before.answer, before.score)
        assert (after.outcome, after.task_set, after.model) == (before.outcome, before.task_set, before.model)
    if target != "prompt-completion":
        assert [trajectory.task_id for trajectory in select(back).kept] == ["t2"]
    again = tmp_path / "again.jsonl"
    convert(there, again, source=target, progress=False)
    assert read_trajectories(again) == read_trajectories(back)
    if suffix == ".jsonl":
        for source in (None, target):
            assert list(iter_trajectories(there, source=source)) == read_trajectories(back)


def test_a_long_file_is_read_in_bounded_memory(recorded: Path, tmp_path: Path) -> None:
    line = read_trajectories(recorded)[0].to_json()
    file = tmp_path / "long.jsonl"
    with file.open("w") as long:
        for number in range(60_000):
            long.write(line.replace('"task_id":"t', f'"task_id":"{number}-t', 1) + "\n")
    code = """if True:
        import re, sys
        from pathlib import Path
        from agentdistill import iter_trajectories
        peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
        before = peak()
        ids = [int(trajectory.task_id.split("-")[0]) for trajectory in iter_trajectories(sys.argv[1])]
        print(ids == list(range(60_000)), peak() - before)
    """
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
    in_order, taken = done.stdout.split()
    assert in_order == "True"
    assert int(taken) < file.stat().st_size / 2, "bytes"


def test_what_cannot_be_read_one_after_the_other_is_said(recorded: Path, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    whole = recorded.read_text()
    file.write_text(whole + 100 * "{}\n" + 100 * whole)
    read = iter_trajectories(file)
    with pytest.raises(TrajectoryError, match=r"bad\.jsonl:5: not a trajectory: missing field"):
        list(read)
    assert list(read) == [], "it ends with what it raises"
    with pytest.raises(TrajectoryError, match=r"bad\.jsonl:5: not a trajectory: missing field"):
        read_trajectories(file)
    file.write_text(f'{whole}{{"task_id": "to')  # left by a killed writer
    assert list(iter_trajectories(file)) == read_trajectories(recorded)
    file.write_text("")
    assert list(iter_trajectories(file)) == []
    file.write_text('{"a": 1}\n')
    with pytest.raises(TrajectoryError, match=r"bad\.jsonl:1: no known format has the fields a"):
        next(iter_trajectories(file))
    with pytest.raises(OSError, match="absent"):
        next(iter_trajectories(tmp_path / "absent"))
    file.write_bytes(b"PAR1 and more")
    with pytest.raises(TrajectoryError, match=r"bad\.jsonl:1: this is a table \(Parquet\).* `convert` reads tables"):
        next(iter_trajectories(file))


# ---- what others make of it ------------------------------------------------------------------------


def rows(recorded: Path, target: Format, output: Path) -> list[dict[str, Any]]:
    convert(recorded, output, target=target, progress=False)
    return [json.loads(line) for line in output.read_text().splitlines()]


def template(name: str) -> str:
    trl = pytest.importorskip("trl", reason="needs agentdistill[train]")
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


def test_messages_render_with_a_models_own_template(recorded: Path, tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = template("qwen3")
    ours = read_trajectories(recorded)[0]
    calls = rows(recorded, "openai", tmp_path / "openai.jsonl")[0]
    text = tokenizer.apply_chat_template(calls["messages"], tools=calls["tools"], tokenize=False)
    called = sum("tool_calls" in message for message in calls["messages"])
    assert text.count("<tool_call>\n{") == 1 + called, "one of them is in the prompt"
    assert json.dumps({"code": "x = 6 * 7\nprint(x)"}, separators=(",", ":")) in text
    assert "<tool_response>\n42\n</tool_response>" in text
    plain = rows(recorded, "messages", tmp_path / "messages.jsonl")[0]["messages"]
    text = tokenizer.apply_chat_template(plain, tokenize=False)
    assert all(turn.removeprefix("Thought: ") in text for turn, _ in said(ours))


def test_trl_trains_on_what_the_model_wrote(recorded: Path, tmp_path: Path, tiny_model: Path) -> None:
    pytest.importorskip("trl", reason="needs agentdistill[train]")
    from datasets import load_from_disk
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    convert(recorded, tmp_path / "steps", target="prompt-completion", progress=False)
    steps = load_from_disk(str(tmp_path / "steps"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = SFTConfig(str(tmp_path / "out"), max_length=None, report_to="none", use_cpu=True, bf16=False)
    trainer = SFTTrainer(str(tiny_model), config, train_dataset=steps, processing_class=tokenizer)
    ours = [turn for trajectory in read_trajectories(recorded) for turn, _ in said(trajectory)]
    for example, turn in zip(trainer.train_dataset, ours, strict=True):
        learnt = [label for label in example["labels"] if label != -100]
        assert tokenizer.decode(learnt).strip() == f"{turn}<|im_end|>"


def test_datasets_reads_tables(recorded: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs agentdistill[benchmarks]")
    for target in FORMATS:
        lines = rows(recorded, target, tmp_path / "lines.jsonl")[target == "agentdistill" :]
        convert(recorded, tmp_path / target, target=target, progress=False)
        table = datasets.load_from_disk(str(tmp_path / target))
        assert len(table) == len(lines)
        for name in COLUMNS & lines[0].keys() - {"tools"} if target != "agentdistill" else ():
            got = [[{k: v for k, v in turn.items() if v is not None} for turn in turns] for turns in table[name]]
            assert got == [line[name] for line in lines]
    # Read also what the library itself saved.
    again = tmp_path / "again"
    datasets.load_from_disk(str(tmp_path / "sharegpt")).save_to_disk(str(again))
    convert(again, tmp_path / "back.jsonl", progress=False)
    assert [said(t) for t in read_trajectories(tmp_path / "back.jsonl")] == [
        said(t) for t in read_trajectories(recorded)
    ]


WRITTEN = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "Q?"},
    {
        "role": "assistant",
        "content": "I search",
        "reasoning_content": "R",
        "tool_calls": [
            {"id": name, "type": "function", "function": {"name": f"get-{name}", "arguments": '{"city": "Ulm"}'}}
            for name in "ab"
        ],
    },
    {"role": "tool", "tool_call_id": "b", "content": "of b"},
    {"role": "tool", "tool_call_id": "a", "content": "of a"},
    {"role": "assistant", "content": "Paris."},
]
PLAIN = [{"role": "user", "content": "Q2?"}, {"role": "assistant", "content": "Code:\n```py\nfinal_answer(1)\n```"}]
SHARED = [{"from": "human", "value": "Q2?"}, {"from": "gpt", "value": PLAIN[1]["content"]}]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.json", "a.jsonl.gz", "saved"])
@pytest.mark.parametrize("form", ["messages", "prompt-completion", "sharegpt"])
def test_logs_that_datasets_writes(form: str, name: str, tmp_path: Path) -> None:
    """Includes the nulls in its columns, which appear because conversations have different fields."""
    datasets = pytest.importorskip("datasets", reason="needs agentdistill[benchmarks]")
    records = {
        "messages": [{"messages": WRITTEN}, {"messages": PLAIN}],
        "prompt-completion": [
            {"prompt": WRITTEN[:2], "completion": WRITTEN[2:]},
            {"prompt": PLAIN[:1], "completion": PLAIN[1:]},
        ],
        "sharegpt": [{"conversations": SHARED, "system": None}],
    }[form]
    table, file = datasets.Dataset.from_list(records), tmp_path / name
    if name == "saved":
        table.save_to_disk(str(file))
    elif name.endswith(".parquet"):
        table.to_parquet(file)
    else:
        table.to_json(file, lines=".jsonl" in name, compression="gzip" if name.endswith(".gz") else None)
    convert(file, tmp_path / "back.jsonl", progress=False)
    *called, plain = read_trajectories(tmp_path / "back.jsonl")
    assert (plain.question, plain.answer, len(called)) == ("Q2?", "1", len(records) - 1)
    for trajectory in called:
        action = trajectory.steps[0].candidates[0].action
        assert isinstance(action, Action)
        assert (action.thought, action.code) == ("R\nI search", 'print(get_a(city="Ulm"))\nprint(get_b(city="Ulm"))')
        assert trajectory.steps[0].message == "Observation:\nof a\nObservation:\nof b"
        assert (trajectory.question, trajectory.answer) == ("Q?", "Paris.")


def test_sharegpt_is_as_llama_factory_wants_it(recorded: Path, tmp_path: Path) -> None:
    """Its rules: odd turns are of one kind, even turns of the other, and a function_call is JSON after its thought."""
    for record in rows(recorded, "sharegpt", tmp_path / "sharegpt.jsonl"):
        turns = [turn for turn in record["conversations"] if turn["from"] != "system"]
        assert len(turns) % 2 == 0
        assert {turn["from"] for turn in turns[::2]} <= {"human", "observation"}
        assert {turn["from"] for turn in turns[1::2]} <= {"gpt", "function_call"}
        for turn in turns:
            if turn["from"] == "function_call":
                call = json.loads(turn["value"].rpartition("</think>")[2])
                assert call["name"] == json.loads(record["tools"])[0]["name"]
                assert call["arguments"]["code"]


def test_atif_is_valid(recorded: Path, tmp_path: Path) -> None:
    atif = pytest.importorskip("atif", reason="needs the models of ATIF")
    for record in rows(recorded, "atif", tmp_path / "atif.jsonl"):
        trajectory = atif.Trajectory.model_validate(record)
        assert trajectory.to_json_dict() == record
        assert [step.source for step in trajectory.steps] == ["system", "user"] + ["agent"] * len(TURNS)


# ---- what others wrote -----------------------------------------------------------------------------


def test_a_log_that_the_models_of_atif_write_is_read(tmp_path: Path) -> None:
    atif = pytest.importorskip("atif", reason="needs the models of ATIF")
    call = atif.ToolCall(tool_call_id="c1", function_name="multiply", arguments={"a": 6, "b": 7})
    seen = atif.Observation(results=[atif.ObservationResult(source_call_id="c1", content="42")])
    steps = [
        atif.Step(step_id=1, source="user", message="What is 6 times 7?"),
        atif.Step(
            step_id=2, source="agent", message="", reasoning_content="I multiply.", tool_calls=[call], observation=seen
        ),
        atif.Step(step_id=3, source="agent", message="It is 42."),
    ]
    agent = atif.Agent(name="other", version="1", model_name="m")
    log = atif.Trajectory(schema_version="ATIF-v1.7", session_id="s1", agent=agent, steps=steps)
    (tmp_path / "log.jsonl").write_text(json.dumps(log.to_json_dict()) + "\n")
    convert(tmp_path / "log.jsonl", tmp_path / "ours.jsonl", progress=False)
    [read] = read_trajectories(tmp_path / "ours.jsonl")
    assert (read.task_id, read.question, read.answer, read.model) == ("s1", "What is 6 times 7?", "It is 42.", "m")
    action = read.steps[0].candidates[0].action
    assert isinstance(action, Action) and action.thought == "I multiply." and "multiply(a=6, b=7)" in str(action.code)
    assert "42" in read.steps[0].message


def test_a_smolagents_memory_is_read(tmp_path: Path) -> None:
    smolagents = pytest.importorskip("smolagents", reason="needs agentdistill[smolagents]")
    from agentdistill.serving.smolagents import AgentModel

    def reply(messages: Any, *_: object) -> str:
        return TURNS[len(messages) // 2 - 1].replace("```py", "<code>").replace("```", "</code>")

    options = {"verbosity_level": 0, "max_steps": 5, "return_full_result": True}
    agent = smolagents.CodeAgent([], AgentModel(ScriptedModel("scripted", reply)), **options)
    run = agent.run("What is 6 times 7?").dict()
    dumps = {
        "full.json": agent.memory.get_full_steps(),
        "succinct.json": agent.memory.get_succinct_steps(),
        "run.json": run,
        "several.json": [run, run],
    }
    for name, dump in dumps.items():
        for indent in (None, 1):
            (tmp_path / name).write_text(json.dumps(dump, indent=indent))
            convert(tmp_path / name, tmp_path / "back.jsonl", progress=False)
            for trajectory in read_trajectories(tmp_path / "back.jsonl"):
                assert (trajectory.outcome, trajectory.answer) == ("final_answer", "42")
                assert trajectory.question == "What is 6 times 7?"
                chosen = [step.candidates[0] for step in trajectory.steps]
                done = [candidate.observation.kind if candidate.observation else "" for candidate in chosen]
                assert done == ["value", "exception", "", "final_answer"]
                assert trajectory.steps[0].message == (
                    "Observation:\nExecution logs:\n42\nLast output from code snippet:\nNone"
                )
                assert "ZeroDivisionError: division by zero" in trajectory.steps[1].message
                assert "regex pattern" in trajectory.steps[2].message


def test_every_smolagents_agent_keeps_its_actions(tmp_path: Path) -> None:
    """Logs that the library itself writes, for each class of agent and each way of writing code."""
    smolagents = pytest.importorskip("smolagents", reason="needs agentdistill[smolagents]")
    from smolagents.models import (
        ChatMessageStreamDelta,
        ChatMessageToolCall,
        ChatMessageToolCallStreamDelta,
    )
    from smolagents.models import ChatMessageToolCallFunction as Function

    @smolagents.tool
    def multiply(a: int, b: int) -> int:
        """Multiply.

        Args:
            a: one
            b: the other
        """
        return a * b

    class Scripted(smolagents.Model):
        def __init__(self, turns: Sequence[Any]) -> None:
            super().__init__(model_id="scripted")
            self.turns = list(turns)

        def generate(self, messages: Any, **_: Any) -> Any:
            text, *named = self.turns.pop(0)
            pairs = [pair for pair in zip(named[::2], named[1::2], strict=True) if pair[0]]
            calls = [
                ChatMessageToolCall(id=f"c{n}", type="function", function=Function(name=name, arguments=given))
                for n, (name, given) in enumerate(pairs)
            ]
            return smolagents.ChatMessage(smolagents.MessageRole.ASSISTANT, text, tool_calls=calls or None)

        def generate_stream(self, messages: Any, **_: Any) -> Any:
            whole = self.generate(messages)
            for start in range(0, len(whole.content), 3):
                yield ChatMessageStreamDelta(content=whole.content[start : start + 3])
            for index, call in enumerate(whole.tool_calls or []):
                text = Function(name=call.function.name, arguments=json.dumps(call.function.arguments))
                delta = ChatMessageToolCallStreamDelta(index=index, id=call.id, type="function", function=text)
                yield ChatMessageStreamDelta(tool_calls=[delta])

    def code(start: str, end: str) -> list[Any]:
        lines = ("I multiply.", "x = 6 * 7\nprint(x)"), ("Done.", "final_answer(x)")
        return [(f"Thought: {thought}\n{start}\n{line}\n{end}", "", None) for thought, line in lines]

    structured = [
        ('{"thought": "I multiply.", "code": "x = 6 * 7"}', "", None),
        ('{"code": "final_answer(x)"}', "", None),
    ]
    call, done = ("multiply", {"a": 6, "b": 7}), ("", "final_answer", {"answer": 42})
    written = 'Thought: I multiply.\nAction:\n{"name": "multiply", "arguments": {"a": 6, "b": 7}}'
    tools = smolagents.ToolCallingAgent, [multiply]
    coder = smolagents.CodeAgent, []
    in_code = code("<code>", "</code>")

    def helper(kind: Any, given: list[Any], turns: list[Any]) -> dict[str, Any]:
        named = {"name": "helper", "description": "multiplies", "provide_run_summary": True, "verbosity_level": 0}
        return {"managed_agents": [kind(given, Scripted(turns), **named)]}

    asked = [("I multiply.", "r = helper(task='6 * 7')"), ("Done.", "final_answer(42)")]
    asks = [(f"Thought: {thought}\n<code>\n{line}\n</code>", "", None) for thought, line in asked]
    cases: list[tuple[Any, list[Any], dict[str, Any], str]] = [
        (tools, [("I multiply.", *call), done], {}, "print(multiply(a=6, b=7))"),
        (tools, [(written, "", None), done], {}, "print(multiply(a=6, b=7))"),
        (tools, [("I multiply.", "nope", {}), done], {}, "print(nope())"),
        (
            tools,
            [("Plan", "", None), ("I multiply.", *call), done],
            {"planning_interval": 5},
            "print(multiply(a=6, b=7))",
        ),
        (coder, structured, {"use_structured_outputs_internally": True}, "x = 6 * 7"),
        (coder, in_code, {}, "x = 6 * 7\nprint(x)"),
        (coder, in_code, {"stream_outputs": True}, "x = 6 * 7\nprint(x)"),
        (coder, structured, {"use_structured_outputs_internally": True, "stream_outputs": True}, "x = 6 * 7"),
        (coder, [("Plan", "", None), *in_code], {"planning_interval": 5}, "x = 6 * 7\nprint(x)"),
        (coder, asks, helper(*tools, [("", *call), done]), "r = helper(task='6 * 7')"),
        (tools, [("I multiply.", "helper", {"task": "6"}), done], helper(*coder, in_code), 'print(helper(task="6"))'),
        (tools, [("I multiply.", *call), done], {"stream_outputs": True}, "print(multiply(a=6, b=7))"),
        (
            tools,
            [("I multiply.", *call, "multiply", {"a": 2, "b": 3}), done],
            {},
            "print(multiply(a=6, b=7))\nprint(multiply(a=2, b=3))",
        ),
        (coder, code("<code>", ""), {}, "x = 6 * 7\nprint(x)"),
        (coder, code("```python", "```"), {"code_block_tags": "markdown"}, "x = 6 * 7\nprint(x)"),
        (coder, code("<run>", "</run>"), {"code_block_tags": ("<run>", "</run>")}, "x = 6 * 7\nprint(x)"),
    ]
    for (kind, given), turns, options, expected in cases:
        agent = kind(given, Scripted(turns), verbosity_level=0, max_steps=5, return_full_result=True, **options)
        run = agent.run("What is 6 times 7?").dict()
        for dump in (run, agent.memory.get_full_steps(), agent.memory.get_succinct_steps()):
            (tmp_path / "log.json").write_text(json.dumps(dump, default=str))
            [trajectory] = iter_trajectories(tmp_path / "log.json")
            actions = [step.candidates[0].action for step in trajectory.steps]
            assert all(isinstance(action, Action) for action in actions)
            first, last = actions
            assert first.code == expected and first.thought.endswith("I multiply.")
            assert last.code.startswith("final_answer(")
            assert (trajectory.outcome, trajectory.answer) == ("final_answer", "42")


def asked(call: dict[str, Any]) -> dict[str, Any]:
    return {"tool_calls": [{"id": "c1", "type": "function", "function": call}]}


SEARCH = asked({"name": "search", "arguments": '{"query":"x"}'})
ATIF_CALL = {"tool_call_id": "c", "function_name": "search", "arguments": {"query": "x"}}


@pytest.mark.parametrize(
    ("message", "thought", "code"),
    [
        (SEARCH | {"reasoning": "I think"}, "I think", 'print(search(query="x"))'),
        (SEARCH | {"reasoning": "R", "reasoning_content": "R"}, "R", 'print(search(query="x"))'),
        (SEARCH | {"reasoning_content": "", "thinking": "R"}, "R", 'print(search(query="x"))'),
        (SEARCH | {"content": [{"type": "output_text", "text": "I search"}]}, "I search", 'print(search(query="x"))'),
        (SEARCH | {"content": "<think>hm</think>I search"}, "hm\nI search", 'print(search(query="x"))'),
        (SEARCH | {"content": "a\nCode:\n```py\nb()\n```"}, "a\nCode:\n```py\nb()\n```", 'print(search(query="x"))'),
        ({"function_call": {"name": "search", "arguments": '{"query":"x"}'}}, "", 'print(search(query="x"))'),
        (asked({"name": "get-weather", "arguments": '{"metric":true}'}), "", "print(get_weather(metric=True))"),
        (asked({"name": "calendar.list", "arguments": '{"day":"Mon"}'}), "", 'print(calendar_list(day="Mon"))'),
        (asked({"name": "f", "arguments": {"n": 10**30}}), "", f"print(f(n={10**30}))"),
        (asked({"name": "f", "arguments": ""}), "", "print(f())"),
        (asked({"name": "f", "arguments": json.dumps('{"a": 1}')}), "", "print(f(a=1))"),
        (asked({"name": "f", "arguments": '{"a": 1'}), "", "print(f(a=1))"),
        (asked({"name": "f", "arguments": '{"a": 1e400, "b": NaN}'}), "", 'print(f(a=1e400, b=float("nan")))'),
        (SEARCH | {"function_call": {"name": "search", "arguments": '{"query":"x"}'}}, "", 'print(search(query="x"))'),
        ({"tool_calls": [{"id": "c1", "name": "search", "args": {"query": "x"}}]}, "", 'print(search(query="x"))'),
        (
            {"tool_calls": [{"id": "c1", "name": "search", "arguments": '{"query":"x"}'}]},
            "",
            'print(search(query="x"))',
        ),
        ({"tool_calls": [{"id": "c1", "name": "search", "input": {"query": "x"}}]}, "", 'print(search(query="x"))'),
        (SEARCH | {"reasoning_details": [{"type": "reasoning.text", "text": "R"}]}, "R", 'print(search(query="x"))'),
        (
            SEARCH
            | {
                "reasoning": None,
                "reasoning_details": [
                    {"type": "reasoning.summary", "summary": "R", "index": 0},
                    {"type": "reasoning.encrypted", "data": "e"},
                    {"type": "reasoning.text", "text": "S", "signature": None},
                ],
            },
            "R\nS",
            'print(search(query="x"))',
        ),
        (SEARCH | {"thinking_blocks": [{"type": "thinking", "thinking": "R"}]}, "R", 'print(search(query="x"))'),
        (
            {"tool_calls": [{"id": "c1", "type": "custom", "custom": {"name": "python", "input": "x = 1"}}]},
            "",
            "x = 1",
        ),
    ],
)
def test_calls_that_clients_write_otherwise(message: dict[str, Any], thought: str, code: str, tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "Q?"},
        {"role": "assistant", "content": None} | message,
        {"role": "tool", "tool_call_id": "c1", "content": "r"},
        {"role": "assistant", "content": "Paris."},
    ]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages}))
    [trajectory] = iter_trajectories(tmp_path / "a.jsonl")
    action = trajectory.steps[0].candidates[0].action
    assert isinstance(action, Action)
    assert (action.thought, action.code) == (thought, code)
    assert trajectory.answer == "Paris."


def test_a_call_without_a_name_is_an_error(tmp_path: Path) -> None:
    for name in ("", " ", None):
        messages = [{"role": "user", "content": "Q?"}, {"role": "assistant", "tool_calls": [{"name": name}]}]
        (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages}))
        with pytest.raises(TrajectoryError, match=r"a\.jsonl:1: .*call without"):
            list(iter_trajectories(tmp_path / "a.jsonl"))


def test_sharegpt_with_the_fields_of_messages(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "It is <answer>Paris</answer>"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"conversations": turns}))
    [trajectory] = iter_trajectories(tmp_path / "a.jsonl")
    assert (trajectory.question, trajectory.answer) == ("Q?", "Paris")


def test_a_call_without_its_result_is_a_turn_of_its_own(tmp_path: Path) -> None:
    """What follows it in the log is the next turn: here the answer."""
    turns = [{"role": "assistant", "content": None} | SEARCH] * 2
    messages = [{"role": "user", "content": "Q?"}, *turns, {"role": "assistant", "content": "Paris."}]
    steps = [
        {"step_id": 1, "source": "user", "message": "Q?"},
        *({"step_id": n, "source": "agent", "message": "", "tool_calls": [ATIF_CALL]} for n in (2, 3)),
        {"step_id": 4, "source": "agent", "message": "Paris."},
    ]
    agent = {"name": "a", "version": "1"}
    atif = {"schema_version": "ATIF-v1.4", "session_id": "s", "agent": agent, "steps": steps}
    for record in ({"messages": messages}, atif):
        (tmp_path / "a.jsonl").write_text(json.dumps(record))
        [trajectory] = iter_trajectories(tmp_path / "a.jsonl")
        codes = [step.candidates[0].action.code for step in trajectory.steps]  # type: ignore[union-attr]
        assert codes == ['print(search(query="x"))'] * 2 + [None]
        assert [step.message for step in trajectory.steps] == ["Observation:\n"] * 2 + [""]
        assert trajectory.answer == "Paris."


def test_what_a_model_refuses_is_kept(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": None, "refusal": "I will not."}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages}))
    [trajectory] = iter_trajectories(tmp_path / "a.jsonl")
    assert trajectory.steps[0].candidates[0].text == "I will not."


def test_results_of_parallel_calls_are_in_the_order_of_the_calls(tmp_path: Path) -> None:
    calls = [{"id": i, "type": "function", "function": {"name": i, "arguments": "{}"}} for i in "ab"]
    messages = [
        {"role": "user", "content": "Q?"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        *({"role": "tool", "tool_call_id": i, "content": f"of {i}"} for i in "ba"),
        {"role": "assistant", "content": "Paris."},
    ]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages}))
    [trajectory] = iter_trajectories(tmp_path / "a.jsonl")
    assert trajectory.steps[0].message.index("of a") < trajectory.steps[0].message.index("of b")


def test_a_record_that_is_too_long_is_refused_with_its_place(tmp_path: Path) -> None:
    import gzip

    line = '{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "%s"}]}\n'
    with gzip.open(tmp_path / "long.jsonl.gz", "wt", compresslevel=1) as file:
        file.write(line % "A" + line % ("A" * (65 << 20)))
    with pytest.raises(TrajectoryError, match=r"long\.jsonl\.gz:2: a record of more than 64 MiB"):
        list(iter_trajectories(tmp_path / "long.jsonl.gz"))


def test_real_completions_are_read_as_the_rollout_reads_them(shared_data: Path, tmp_path: Path) -> None:
    """Completions of a public data set, as conversations of one turn: none is lost, and none stops the conversion."""
    import gzip

    with gzip.open(shared_data / "model_outputs.jsonl.gz", "rt") as file:
        outputs = [line["output"] for line in map(json.loads, file)][::10]
    for name, record in {
        "messages.jsonl": lambda text: {
            "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": text}]
        },
        "sharegpt.json": lambda text: {
            "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": text}]
        },
    }.items():
        (tmp_path / name).write_text("\n".join(json.dumps(record(text)) for text in outputs))
        convert(tmp_path / name, tmp_path / "back.jsonl", progress=False)
        assert [t.steps[0].candidates[0].text for t in read_trajectories(tmp_path / "back.jsonl")] == outputs


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (["Q", "R"], "Q\nR"),
        ([{"type": "text", "text": "Q"}, {"text": "R"}], "Q\nR"),
        (42, "42"),
        ([1, 2.5, True], "1\n2.5\nTrue"),
        ([[1, "a"]], '[1, "a"]'),
        ([{"type": "input_text", "text": "Q"}], "Q"),
        ({"a": None}, '{"a": None}'),
        ([{"a": None}], '{"a": None}'),
    ],
)
def test_what_a_content_may_be(content: object, text: str, tmp_path: Path) -> None:
    messages = [{"role": "MessageRole.USER", "content": content}, {"role": "Assistant", "content": "A"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages}))
    [read] = iter_trajectories(tmp_path / "a.jsonl")
    assert read.question == text


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"role": "user", "content": [{"type": "image_url"}]}, "a part that is image_url, not text"),
        ({"role": "wizard", "content": "Q"}, 'a message of the role "wizard", which is not known'),
    ],
)
def test_what_a_message_cannot_be(message: dict[str, object], why: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [message, {"role": "assistant", "content": "A"}]}))
    with pytest.raises(TrajectoryError, match=rf"a\.jsonl:1: not a record of openai: {why}"):
        list(iter_trajectories(tmp_path / "a.jsonl"))


# ---- the command -----------------------------------------------------------------------------------


def test_the_command_converts(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "sharegpt.json"
    main(["convert", str(recorded), "-o", str(output), "--to", "sharegpt"])
    assert "3 trajectories read, 3 records written" in capsys.readouterr().out
    assert len(json.loads(output.read_text())) == 3, "a list"
    main(["convert", str(output), "-o", str(tmp_path / "back.jsonl")])
    assert len(read_trajectories(tmp_path / "back.jsonl")) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{in}", "-o", "{in}"], "is both input and output"),
        (["{pattern}", "-o", "{in}"], "is both input and output"),
        (["{in}", "-o", "{out}.csv"], "name it .jsonl, .json or .parquet"),
        (["{in}", "-o", "{out}.jsonl", "--from", "atif"], "traj.jsonl:1: not a record of atif: missing field"),
        (["{out}*.jsonl", "-o", "{out}.jsonl"], "no file matches this pattern"),
        (["{folder}", "-o", "{out}.jsonl"], "this folder is not a saved dataset"),
        (["{in}", "-o", "{folder}"], "this folder is not a dataset and will not be replaced"),
        (["-o", "{out}.jsonl"], "nothing to convert"),
    ],
)
def test_what_cannot_be_is_said(
    arguments: list[str], message: str, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    names = {
        "in": str(recorded),
        "pattern": str(recorded.parent / "*.jsonl"),
        "out": str(tmp_path / "out"),
        "folder": str(folder),
    }
    with pytest.raises(SystemExit):
        main(["convert", *(argument.format(**names) for argument in arguments)])
    assert message in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), [float("nan"), 1.0], {"a": float("-inf")}])
def test_numbers_that_json_does_not_have_may_be_beside_the_messages(score: Any, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs agentdistill[tables]")
    parquet = pytest.importorskip("pyarrow.parquet")
    messages = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A"}]
    parquet.write_table(pyarrow.Table.from_pylist([{"messages": messages, "score": score}]), tmp_path / "t.parquet")
    convert(tmp_path / "t.parquet", tmp_path / "t.jsonl", progress=False)
    assert [trajectory.question for trajectory in read_trajectories(tmp_path / "t.jsonl")] == ["Q?"]


def test_a_table_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    with pytest.raises(TrajectoryError, match=r"junk\.parquet: cannot read this file"):
        convert(tmp_path / "junk.parquet", tmp_path / "out.jsonl", progress=False)
    pyarrow = pytest.importorskip("pyarrow", reason="needs agentdistill[tables]")
    good = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    table = pyarrow.table({"messages": [good, good[:1]]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(TrajectoryError, match=r"a\.parquet: row 2: not a record of openai: there is no turn"):
        convert(tmp_path / "a.parquet", tmp_path / "out.jsonl", progress=False)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("target", ["messages", "openai", "sharegpt", "atif", "reference"])
def test_actions_of_another_form_stay_in_it(target: Format, tmp_path: Path) -> None:
    turns = ['<tool_call>{"name": "python", "arguments": {"code": "x = 42"}}</tool_call>', "So.<answer>42</answer>"]
    model = ScriptedModel("m", lambda messages, prefix, index: turns[len(messages) // 2 - 1])
    config = RolloutConfig(action_format="tool_call")
    [before] = rollout([Task("t", "Q?", "42")], model, config=config, output=tmp_path / "t.jsonl", progress=False)
    convert(tmp_path / "t.jsonl", tmp_path / "there.jsonl", target=target, progress=False)
    lines = (tmp_path / "there.jsonl").read_text().replace('"agentdistill"', '"unknown"')  # as others write it
    (tmp_path / "there.jsonl").write_text(lines)
    convert(tmp_path / "there.jsonl", tmp_path / "back.jsonl", progress=False)
    [after] = read_trajectories(tmp_path / "back.jsonl")
    assert (after.answer, after.sampling["action_format"]) == ("42", "tool_call")
    assert [text for text, _ in said(after)] == [text for text, _ in said(before)] == turns


def test_a_data_set_of_the_hub_by_its_id(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs agentdistill[train]")
    pytest.importorskip("pyarrow", reason="needs agentdistill[tables]")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    cached = tmp_path / "datasets--owner--logs_2.5k"
    data = cached / "snapshots" / ("0" * 40) / "data"
    data.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    convert(recorded, data / "train-00000-of-00001.parquet", target="reference", progress=False)
    (data / "test-00000-of-00001.parquet").write_bytes(b"another split")
    assert convert("owner/logs_2.5k", tmp_path / "traj.jsonl", progress=False) == (3, 3)
    with pytest.raises(FileNotFoundError, match="owner/other: no such file, and no data set of that name"):
        convert("owner/other", tmp_path / "traj.jsonl", progress=False)


@pytest.mark.parametrize("target", ["messages", "openai", "prompt-completion", "sharegpt", "atif"])
def test_the_thinking_of_a_reasoning_model_is_kept_apart_from_its_text(
    target: Format, recorded: Path, tmp_path: Path
) -> None:
    record = json.loads(read_trajectories(recorded)[1].to_json())
    thought = [f"I think. ({number})" for number in range(len(record["steps"]))]
    for step, reasoning in zip(record["steps"], thought, strict=True):
        step["candidates"][step["winner"]]["reasoning"] = reasoning
    before = Trajectory.from_json(json.dumps(record))
    write_trajectories([before], "{}", tmp_path / "t.jsonl")
    convert(tmp_path / "t.jsonl", tmp_path / "there.jsonl", target=target, progress=False)
    records = (tmp_path / "there.jsonl").read_text()
    assert records.count(f'"reasoning_content":{json.dumps(thought[-1])}') == 1
    convert(tmp_path / "there.jsonl", tmp_path / "back.jsonl", progress=False)
    after = read_trajectories(tmp_path / "back.jsonl")[-1]
    assert [step.candidates[step.winner].reasoning for step in after.steps] == thought
    assert said(after) == said(before)
