"""smolagents' own agents with our sandbox and our models; its local executor is the oracle for results."""

import re
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from agentdistill import Limits
from agentdistill.models.model import Message, Sampling
from agentdistill.models.scripted import ScriptedModel

pytest.importorskip("smolagents", reason="needs agentdistill[smolagents]")
import smolagents
from smolagents.local_python_executor import InterpreterError, LocalPythonExecutor
from smolagents.serialization import SerializationError

from agentdistill.serving.smolagents import AgentModel, SandboxExecutor, code_agent


@smolagents.tool
def population(town: str) -> int:
    """How many people live in a town.

    Args:
        town: Name of the town.
    """
    return {"Ulm": 128_928, "Bern": 137_995}[town]


TOOLS = {tool.name: tool for tool in (population, smolagents.FinalAnswerTool())}

# Cells of one session.
CELLS = [
    "x = 41\nprint('hello')\nx + 1",
    "x += 1\nx",
    "y = x\nNone",
    "print(y)",
    "'text'",
    "[1, 2.5, None, True, (3, 'a'), {'b': [4]}]",
    "population('Ulm')",
    "population(town='Bern') - population('Ulm')",
    "def twice(n):\n    return 2 * n\ntwice(x)",
    "for i in range(3):\n    print(i)",
    "from_outside * 2",
    "final_answer(x)",
    "final_answer({'towns': ['Ulm', 'Bern'], 'n': None})",
    "final_answer('42')",
]


def test_it_gives_what_the_local_executor_gives() -> None:
    ours, theirs = SandboxExecutor(), LocalPythonExecutor([])
    for executor in (ours, theirs):
        executor.send_variables({"from_outside": 21})
        executor.send_tools(TOOLS)
    for code in CELLS:
        assert vars(ours(code)) == vars(theirs(code)), code


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("class R:\n    def __repr__(self): return \"'a', {[]: 1}\"\nR()", "'a', {[]: 1}"),
        ("class R:\n    def __repr__(self): return '[' * 999\nR()", "[" * 999),
        ("import app\napp.answers.append(('text', '{'))\nfinal_answer(1)", "text"),
        ("import app\napp.answers.append(('text', '[' * 9_999))\nfinal_answer(1)", "text"),
        ("import app\napp.answers.append(('text', '1' * 9_999))\nfinal_answer(1)", "text"),
    ],
)
def test_a_value_or_an_answer_that_only_pretends_is_text(code: str, output: str) -> None:
    executor = SandboxExecutor()
    executor.send_tools({})
    assert executor(code).output == output


# Cells that fail, and what the model must read about it.
FAILING = {
    "print('so far')\n1 / 0": "ZeroDivisionError",
    "print('so far')\nopen('/etc/passwd')": "FileNotFoundError",
    "print('so far')\npopulation('Rome')": "ToolError: KeyError: 'Rome'",
    "print('so far')\nwhile True: pass": "took too long",
    "print('so far')\n'a' * (1 << 30)": "too much memory",
    "print('so far'": "SyntaxError",
}


@pytest.mark.parametrize("code", FAILING)
def test_what_fails_says_why_and_keeps_what_was_printed(code: str) -> None:
    executor = SandboxExecutor(Limits(seconds=0.5, memory_mb=64))
    executor.send_tools(TOOLS)
    with pytest.raises(InterpreterError, match=re.escape(FAILING[code])):
        executor(code)
    assert executor.state["_print_outputs"] == ("" if "SyntaxError" in FAILING[code] else "so far\n")
    assert executor("1 + 1").output == 2


def test_variables_of_many_kinds_are_sent() -> None:
    executor = SandboxExecutor()
    sent = {
        "a": (1, {2}),
        "b": b"\x00",
        "c": date(2024, 2, 29),
        "d": Decimal("0.1"),
        "e": {1: [None, "'\\\n"]},
        "f": 1j,
    }
    executor.send_variables(sent)
    assert (
        executor(
            f"(a, b, c, d, e, f) == {tuple(sent.values())!r}".replace("datetime.date", "type(c)").replace(
                "Decimal", "type(d)"
            )
        ).output
        is True
    )
    with pytest.raises(SerializationError):
        executor.send_variables({"g": Fraction(1, 2)})


def test_variables_stay_while_the_tools_do() -> None:
    executor = SandboxExecutor()
    executor.send_tools(TOOLS)
    executor("x = 1")
    executor.send_tools(dict(TOOLS))
    assert executor("x").output == 1
    executor.send_tools({"population": population})
    with pytest.raises(InterpreterError, match="NameError"):
        executor("x")


def scripted(*codes: str, tags: tuple[str, str] = ("<code>", "</code>")) -> tuple[ScriptedModel, list[list[Message]]]:
    """A model that writes these cells one after another, and the messages that it was given."""
    asked: list[list[Message]] = []

    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        asked.append(list(messages))
        return f"Thought: I act.\nCode:\n{tags[0]}\n{codes[len(asked) - 1]}\n{tags[1]}"

    return ScriptedModel("scripted", policy), asked


def test_an_agent_of_smolagents_runs_on_both() -> None:
    model, asked = scripted(
        "towns = {town: population(town) for town in ('Ulm', 'Bern')}\nprint(towns)",
        "towns['Rome']",
        "import math\nfinal_answer(str(math.gcd(*towns.values())))",
        "final_answer(str(towns['Ulm']))",
    )
    agent = smolagents.CodeAgent([population], AgentModel(model), executor=SandboxExecutor(), verbosity_level=0)
    assert agent.run("What is the greatest common divisor of both populations?") == "1"
    observed = [step.observations for step in agent.memory.steps[1:]]
    assert observed[0] == "Execution logs:\n{'Ulm': 128928, 'Bern': 137995}\nLast output from code snippet:\nNone"
    assert "KeyError: 'Rome'" in str(agent.memory.steps[2].error)
    assert agent.run("And Ulm's?", reset=False) == "128928"
    assert [message.role for message in asked[1]] == ["system", "user", "assistant", "user"]
    assert "Calling tools" not in asked[1][2].content


def test_a_student_is_spoken_to_as_it_has_learnt() -> None:
    model, asked = scripted("print(population('Ulm'))", "final_answer('{{1}}')", tags=("```py", "```<end_code>"))
    agent = code_agent(model, [population], instructions="Be brief.", verbosity_level=0)
    assert agent.run("Q?") == "{{1}}"
    system = asked[0][0].content
    assert system.startswith("Answer the question in steps.") and system.endswith("Be brief.")
    assert "def population(town: string) -> integer:" in system and system.count("def final_answer(") == 1
    assert asked[1][2].content == "Thought: I act.\nCode:\n```py\nprint(population('Ulm'))\n```<end_code>"


def test_a_model_reads_messages_in_every_form() -> None:
    asked: list[tuple[list[Message], Sampling]] = []

    class Model(ScriptedModel):
        async def generate(self, messages: Sequence[Message], sampling: Sampling, **more: Any) -> Any:
            asked.append((list(messages), sampling))
            return await super().generate(messages, sampling, **more)

    model = AgentModel(Model("m", lambda messages, prefix, index: "one two three"))
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        smolagents.ChatMessage(smolagents.MessageRole.TOOL_CALL, "called"),
        smolagents.ChatMessage(smolagents.MessageRole.TOOL_RESPONSE, [{"type": "text", "text": "c"}]),
    ]
    reply = model(messages, stop_sequences=[" three"], max_tokens=9)
    assert (reply.role, reply.content, reply.token_usage.total_tokens) == ("assistant", "one two", 0)
    assert asked == [([("system", "S"), ("user", "a\nb\nc")], Sampling(max_tokens=9, stop=(" three",)))]
    for wrong in ({"response_format": {"type": "json_object"}}, {"tools_to_call_from": [population]}):
        with pytest.raises(ValueError, match="use CodeAgent"):
            model.generate(messages, **wrong)
    with pytest.raises(ValueError, match="not image"):
        model([{"role": "user", "content": [{"type": "image", "image": b""}]}])
