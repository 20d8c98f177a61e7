"""What a model reads: prompts with their marks filled in, and messages about what an action did."""

import re
from pathlib import Path

import pytest

from agentdistill import Action, Bm25Index, Candidate, Observation, ParseFailure, Sandbox, parse_action
from agentdistill.action_format import FORMS
from agentdistill.models.model import Message
from agentdistill.rollouts.prompt import IMPORTS, assistant_turn, load_prompt, observation_message, opening
from agentdistill.tools.tool import describe_tools

OURS = ("teacher_agent", "teacher_cot", "student_agent", "student_cot", *(f"{form}_agent" for form in [*FORMS][1:]))


@pytest.mark.parametrize("name", OURS)
def test_our_prompts_have_every_mark_filled_in(name: str) -> None:
    system, user = opening("Who?", load_prompt(name), tools=describe_tools([]), max_steps=5)
    assert (system.role, user) == ("system", Message("user", "Who?"))
    assert "{{" not in system.content
    shows_functions = name.endswith("_agent") and name != "search_tags_agent"
    assert ("def final_answer(answer):" in system.content) == shows_functions


def test_a_prompt_is_a_name_a_file_or_a_text(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Answer with {{tools}}.\n")
    assert load_prompt(str(tmp_path / "mine.txt")) == "Answer with {{tools}}.\n"
    assert load_prompt("Answer briefly.") == "Answer briefly."
    assert opening("Who?", "") == [Message("user", "Who?")]
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbfAnswer.")
    assert load_prompt(str(tmp_path / "marked.txt")) == "Answer."
    (tmp_path / "latin.txt").write_bytes(b"Pr\xe9cis")
    with pytest.raises(ValueError, match=r"latin\.txt: byte 2 is not UTF-8: save the file as UTF-8"):
        load_prompt(str(tmp_path / "latin.txt"))
    for wrong in ("student_agnet", str(tmp_path / "none.txt"), "Use {{toolz}} now"):
        with pytest.raises(ValueError, match=re.escape(wrong) if "{{" not in wrong else "toolz"):
            load_prompt(wrong)


def worked_examples() -> list[tuple[str, str]]:
    """Completions in the teacher's prompt, each with the observation after it ("" after the last one of an example)."""
    text = load_prompt("teacher_agent")
    turn = re.compile(
        r"^(Thought: .*?<end_code>)\n\n(?:Observation:\n(.*?)\n\n(?=Thought: )|---)", re.DOTALL | re.MULTILINE
    )
    return [(match[1], match[2] or "") for match in turn.finditer(text)]


def test_worked_examples_are_in_the_one_form() -> None:
    examples = worked_examples()
    assert len(examples) == 10
    for completion, _ in examples:
        assert assistant_turn(Candidate(completion, action=parse_action(completion))) == completion


def test_worked_computations_print_what_the_prompt_says() -> None:
    sandbox, ran = Sandbox(), 0
    for completion, observed in worked_examples():
        action = parse_action(completion)
        assert isinstance(action, Action) and action.code
        if observed and "web_search" not in action.code:
            observation, _ = sandbox.run(sandbox.initial, action.code)
            assert observation_message(Candidate(completion, action=action, observation=observation)) == (
                f"Observation:\n{observed}"
            )
            ran += 1
    assert ran == 2


def test_what_may_be_imported_can_be_imported() -> None:
    observation, _ = Sandbox().run(Sandbox().initial, f"import {IMPORTS}\nsympy.__version__")
    assert observation.kind == "value"


def test_worked_searches_look_like_ours(tmp_path: Path) -> None:
    passages = [("1", "Aileen Strand", "Aileen Strand (3 May 1811 - 19 January 1880) was an engineer.")]
    sandbox = Sandbox({"web_search": Bm25Index.build(passages, tmp_path / "index")})
    observation, _ = sandbox.run(sandbox.initial, 'print(web_search("Aileen Strand engineer born"))')
    assert observation.stdout.rstrip("\n") == (
        "[1] Aileen Strand\nAileen Strand (3 May 1811 - 19 January 1880) was an engineer."
    )


ACTION = Action("I think.", code="f()")

SAID = [
    (Observation("value", stdout="1\n2\n"), "1\n2"),
    (Observation("value", value="42"), "Value: 42"),
    (Observation("value", stdout="a\n", value="'b\\nc'"), "a\nValue: b\nc"),
    (Observation("value", value="'cut of"), "Value: 'cut of"),
    (Observation("value", value="'a', {[]: 1}"), "Value: 'a', {[]: 1}"),
    (Observation("value", value=r"'\ud800'"), r"Value: '\ud800'"),
    (Observation("value", value="''" + "+''" * 3_000), "Value: ''" + "+''" * 3_000),
    (Observation("final_answer", stdout="a\n", final_answer="b"), "a\nFinal answer: b"),
    (Observation("value"), "(Nothing was printed. Print what you want to see.)"),
    (None, "(Nothing was printed. Print what you want to see.)"),
    (
        Observation("exception", stdout="so far\n", error_type="NameError", error="Traceback\nNameError: x\n"),
        "so far\nError:\nTraceback\nNameError: x\nRead the last line of the error, and try again in a different way.",
    ),
    (
        Observation("tool_error", error_type="RuntimeError", error="RuntimeError: down"),
        "Error:\nRuntimeError: down\nRead the last line of the error, and try again in a different way.",
    ),
    (
        Observation("timeout", stdout="1\n"),
        "1\nError: the code took too long and was stopped. Use a quicker way, or a smaller input.",
    ),
    (
        Observation("out_of_memory"),
        "Error: the code used too much memory. Use a way that keeps less of it at once.",
    ),
    (
        Observation("killed"),
        "Error: the code had to be killed, and what it had changed is undone. Try in a different way.",
    ),
]


@pytest.mark.parametrize(("observation", "said"), SAID)
def test_an_observation_is_told(observation: Observation | None, said: str) -> None:
    assert observation_message(Candidate("", action=ACTION, observation=observation)) == f"Observation:\n{said}"


def test_a_parse_failure_is_told_in_its_own_words() -> None:
    failed = Candidate("?", action=ParseFailure("no_action", "Write code."))
    assert observation_message(failed) == "Observation:\nWrite code."


def test_a_repetition_is_told() -> None:
    failed = Candidate("", action=ACTION, observation=Observation("timeout"))
    assert observation_message(failed, repeated=True).endswith("Do something else now.")


TURNS = [
    ("Thought: A.\nCode:\n```py\nf()\n```<end_code>", None),
    ("Thought: A.\nCode:\n```py\nf()\n```", "Thought: A.\nCode:\n```py\nf()\n```<end_code>"),
    ("Thought: A.\nCode:\n```python\nf()\n", "Thought: A.\nCode:\n```py\nf()\n```<end_code>"),
    ("```py\nf()\n```<end_code>\nObservation: 1", "Code:\n```py\nf()\n```<end_code>"),
    ("Final answer: 7 ", "Final answer: 7"),
    ("  no action  ", "no action"),
]


@pytest.mark.parametrize(("completion", "turn"), TURNS)
def test_a_turn_has_one_form(completion: str, turn: str | None) -> None:
    assert assistant_turn(Candidate(completion, action=parse_action(completion))) == (turn or completion)


def test_a_long_failure_is_shortened() -> None:
    failed = Candidate("x" * 10_000, action=ParseFailure("repetition", ""))
    assert len(assistant_turn(failed)) <= 2_000
