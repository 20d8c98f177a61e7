"""The agent loop: whole episodes, each a script of completions, with the real sandbox and a real index."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agentdistill import Action, Bm25Index, ModelError, Sandbox, Task, Trajectory
from agentdistill.action_format import ActionFormat
from agentdistill.models.model import Completion, Generation, Message, Sampling
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.agent import AgentConfig, Episode, run_episode
from agentdistill.rollouts.engine import rollout
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.rollouts.prompt import assistant_turn
from agentdistill.self_consistent_action import SelfConsistentAction
from agentdistill.tools.tool import web_search


def code(text: str) -> str:
    return f"Thought: I act.\nCode:\n```py\n{text}\n```<end_code>"


@dataclass
class Script:
    """A model that writes the next text of its script at each step; the last one repeats."""

    replies: list[str | Completion]
    name: str = "script"
    asked: list[list[Message]] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)

    async def generate(
        self, messages: Sequence[Message], sampling: Sampling, *, n: int = 1, prefix: str = ""
    ) -> Generation:
        self.asked.append(list(messages))
        self.prefixes.append(prefix)
        reply = self.replies[min(len(self.asked), len(self.replies)) - 1]
        completion = reply if isinstance(reply, Completion) else Completion(reply)
        return Generation([completion] * n, prompt_tokens=10, completion_tokens=n)

    async def close(self) -> None:
        pass


def play(
    model: Script | ScriptedModel,
    config: AgentConfig | None = None,
    *,
    prefix: str = "",
    sandbox: Sandbox | None = None,
) -> Episode:
    config = config or AgentConfig()

    async def run() -> Episode:
        with SelfConsistentAction(sandbox or Sandbox(), action_format=config.action_format) as action:
            return await run_episode("Q?", model, action, config, tools="", prefix=prefix)

    return asyncio.run(run())


EPISODES: list[tuple[str, list[str | Completion], str, str | None, int]] = [
    ("answers at once", [code("final_answer(6 * 7)")], "final_answer", "42", 1),
    ("keeps variables", [code("x = 41"), code("x += 1"), code("final_answer(x)")], "final_answer", "42", 3),
    ("answers in plain text", ["Final answer: 42"], "final_answer", "42", 1),
    ("recovers from an error", [code("1/0"), code("final_answer(1)")], "final_answer", "1", 2),
    ("recovers from a failure to parse", ["Hm.", "Hm.", code("final_answer(1)")], "final_answer", "1", 3),
    ("never parses", ["Hm.", "Ha.", "Ho."], "parse_failure", None, 3),
    ("parses now and then", ["Hm.", code("1"), "Hm.", code("1"), "Hm."], "parse_failure", None, 5),
    ("goes on and on", [code("1")], "out_of_steps", None, 5),
    ("fails in the same way", [code("1/0")], "out_of_steps", None, 3),
    ("fails in other ways", [code("1/0"), code("2/0"), code("3/0"), code("4/0"), code("5/0")], "out_of_steps", None, 5),
    ("is cut in its thought", [Completion("Thought: I", finish_reason="length")], "cut_completion", None, 3),
    (
        "is cut in a number",
        [Completion("Thought: I act.\nCode:\n```py\nx = 12", finish_reason="length")],
        "cut_completion",
        None,
        3,
    ),
    ("is cut in its answer", [Completion("Final answer: 12", finish_reason="length")], "cut_completion", None, 3),
    (
        "recovers from a cut",
        [
            Completion("Thought: I act.\nCode:\n```py\nx = 12", finish_reason="length"),
            code("final_answer('x' in globals())"),
        ],
        "final_answer",
        "False",
        2,
    ),
    (
        "is cut after its action",
        [Completion(code("final_answer(1)") + "\nAnd so", finish_reason="length")],
        "final_answer",
        "1",
        1,
    ),
    ("says nothing", [""], "parse_failure", None, 3),
]


@pytest.mark.parametrize(
    ("replies", "outcome", "answer", "steps"), [e[1:] for e in EPISODES], ids=[e[0] for e in EPISODES]
)
def test_an_episode_ends(replies: list[str | Completion], outcome: str, answer: str | None, steps: int) -> None:
    episode = play(Script(replies), AgentConfig(last_word=False))
    assert (episode.outcome, episode.answer, len(episode.steps)) == (outcome, answer, steps)
    assert (episode.prompt_tokens, episode.completion_tokens) == (10 * steps, steps)
    assert [step.message == "" for step in episode.steps] == [False] * (steps - 1) + [True]


LAST_WORDS: list[tuple[str, list[str | Completion], str, str | None]] = [
    ("a text", [*[code("1")] * 5, "Paris"], "out_of_steps", "Paris"),
    ("a box in a sentence", [*[code("1")] * 5, r"It is \boxed{\frac{1}{2}}."], "out_of_steps", r"\frac{1}{2}"),
    ("tags", [*[code("1")] * 5, "It is <answer>Rome</answer>"], "out_of_steps", "Rome"),
    ("code that answers", [code("x = 41"), *[code("x")] * 4, code("final_answer(x + 1)")], "out_of_steps", "42"),
    ("code that goes on", [code("1")], "out_of_steps", None),
    ("a text after it never parsed", ["Hm.", "Ha.", "Ho.", "42"], "parse_failure", "42"),
    ("nothing", ["Hm.", "Ha.", "Ho.", " "], "parse_failure", None),
    ("a cut text", ["Hm.", "Ha.", "Ho.", Completion("4", finish_reason="length")], "parse_failure", None),
]


@pytest.mark.parametrize(("replies", "outcome", "answer"), [e[1:] for e in LAST_WORDS], ids=[e[0] for e in LAST_WORDS])
def test_who_is_out_of_steps_is_asked_for_an_answer(
    replies: list[str | Completion], outcome: str, answer: str | None
) -> None:
    model = Script(replies)
    episode = play(model, AgentConfig(candidates=3))
    assert (episode.outcome, episode.answer) == (outcome, answer)
    assert [len(step.candidates) for step in episode.steps] == [3] * (len(episode.steps) - 1) + [1]
    assert ["no steps left" in step.message for step in episode.steps] == [False] * (len(episode.steps) - 2) + [
        True,
        False,
    ]
    assert model.asked[-1][-1].content == episode.steps[-2].message


def test_the_conversation_is_what_happened() -> None:
    model = Script([code("print('hello')") + "\nObservation: made up", "Hm.", code("final_answer(1)")])
    episode = play(model)
    opening = [(message.role, message.content) for message in episode.messages]
    first, second = episode.steps[0], episode.steps[1]
    assert model.asked[2] == [
        *opening,
        ("assistant", code("print('hello')")),
        ("user", "Observation:\nhello"),
        ("assistant", "Hm."),
        ("user", second.message),
    ]
    assert second.message.startswith("Observation:\n") and first.candidates[0].text.endswith("made up")
    assert [assistant_turn(step.candidates[step.winner]) for step in episode.steps[:2]] == [
        code("print('hello')"),
        "Hm.",
    ]


def test_whoever_repeats_a_failure_is_told() -> None:
    messages = [step.message for step in play(Script([code("1/0")])).steps]
    assert ["Do something else" in message for message in messages] == [False, True, True, False]


def test_a_first_thought_begins_the_first_turn_only() -> None:
    model = Script([" and act.\nCode:\n```py\nprint(1)\n```", code("final_answer(1)")])
    episode = play(model, prefix="Thought: I plan")
    assert model.prefixes == ["Thought: I plan", ""]
    candidate = episode.steps[0].candidates[0]
    assert (candidate.prefix, candidate.text.startswith("Thought: I plan and act.")) == ("Thought: I plan", True)
    assert candidate.action is not None and candidate.action.thought == "I plan and act."  # type: ignore[union-attr]


def test_search_then_compute_then_answer(tmp_path: Path) -> None:
    index = Bm25Index.build(
        [("a", "Ann", "Ann was born in 1811."), ("b", "Bob", "Bob died in 1900.")], tmp_path / "index"
    )
    model = Script(
        [
            code('found = web_search("Ann born")\nprint(found)'),
            code("import re\nyear = int(re.search(r'born in (\\d+)', found)[1])\nyear"),
            code("final_answer(year + 9)"),
        ]
    )
    episode = play(model, sandbox=Sandbox({"web_search": index}))
    assert (episode.outcome, episode.answer) == ("final_answer", "1820")
    assert "Ann was born in 1811." in episode.steps[0].message
    assert episode.steps[1].message == "Observation:\nValue: 1811"
    [call] = episode.steps[0].candidates[0].observation.tool_calls  # type: ignore[union-attr]
    assert (call.name, call.arguments) == ("web_search", '[["Ann born"], {}]')


def test_candidates_are_sampled_and_their_votes_kept() -> None:
    answers = ["final_answer(41)", "final_answer(42)", "final_answer(42)", "1/0"]
    model = ScriptedModel("m", lambda messages, prefix, index: code(answers[index]))
    episode = play(model, AgentConfig(candidates=4))
    [step] = episode.steps
    assert (episode.answer, step.winner, [votes for _, votes in step.votes]) == ("42", 1, [2, 1])
    assert len(step.candidates) == 4


def test_what_the_model_raises_passes_through() -> None:
    def down(messages: Sequence[Message], prefix: str, index: int) -> str:
        raise ModelError("the server is gone")

    with pytest.raises(ModelError, match="gone"):
        play(ScriptedModel("m", down))


CONFIGS = [
    (AgentConfig(), (0.0, 1.0)),
    (AgentConfig(candidates=8), (0.4, 0.8)),
    (AgentConfig(temperature=1.0), (1.0, 0.8)),
]


@pytest.mark.parametrize(("config", "sampling"), CONFIGS)
def test_the_paper_s_sampling_is_the_default(config: AgentConfig, sampling: tuple[float, float]) -> None:
    assert (config.sampling.temperature, config.sampling.top_p) == sampling


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_steps": 0},
        {"candidates": 0},
        {"max_tokens": 0},
        {"candidates": 2, "temperature": 0.0},
        {"prompt": "nobody"},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        AgentConfig(**wrong)  # type: ignore[arg-type]


IN_OTHER_FORMS = {
    "tool_call": (
        [
            '<think>I look.</think>\n<tool_call>{"name": "web_search", "arguments": {"query": "Zalto"}}</tool_call>',
            '<tool_call>{"name": "python", "arguments": {"code": "y = 1900 + 4"}}</tool_call>',
            '<tool_call>{"name": "python", "arguments": {"code": "y"}}',
            "It was <answer>1904</answer>",
        ],
        "<tool_response>\nValue: 1904\n</tool_response>",
    ),
    "search_tags": (
        ["<think>I look.</think><search>Zalto</search>", "<think>So.</think><answer> 1904 </answer>"],
        None,
    ),
    "code_tags": (
        [
            'I look.\n<execute>\nprint(web_search("Zalto"))\n</execute>',
            "<execute>y = 1904</execute>",
            "<execute>print(y)</execute>",
            "So.\n<solution>1904</solution>",
        ],
        "Observation:\n1904",
    ),
    "react": (
        [
            "Thought: I look.\nAction: Search[Zalto]",
            "Action: Python[y = 1904]",
            "Action 3: Python[print(y)]",
            "Thought: So.\nAction: Finish[1904]",
        ],
        "Observation: 1904",
    ),
}


@pytest.mark.parametrize("action_format", IN_OTHER_FORMS)
def test_an_episode_in_another_form(action_format: ActionFormat, tmp_path: Path) -> None:
    """It searches a real index, computes in the real sandbox, and answers. Everything is recorded as it was written."""
    replies, seen = IN_OTHER_FORMS[action_format]
    search = web_search(Bm25Index.build([("1", "Zalto", "Zalto was founded in 1904.")], tmp_path / "index"))
    model = Script([*replies])
    config = RolloutConfig(action_format=action_format)
    [played] = rollout([Task("t", "When was Zalto founded?", "1904")], model, [search], config, progress=False)
    assert (played.outcome, played.answer, played.score) == ("final_answer", "1904", 1.0)
    assert "founded in 1904" in played.steps[0].message
    assert seen is None or played.steps[-2].message == seen
    last = model.asked[-1]
    assert [message.content for message in last if message.role == "assistant"] == replies[:-1]
    assert [message.content for message in last if message.role == "user"][1:] == [s.message for s in played.steps[:-1]]
    assert "{{" not in last[0].content
    assert ('"name": "web_search"' in last[0].content) == (action_format == "tool_call")
    action = played.steps[0].candidates[0].action
    assert isinstance(action, Action) and action.format == action_format
    assert action.code in ('print(web_search("Zalto"))', 'print(web_search(query="Zalto"))')
    assert Trajectory.from_json(played.to_json()) == played


def test_a_failure_is_told_in_the_form_that_was_asked_for() -> None:
    episode = play(Script(["Hm.", "Action: Finish[1]"]), AgentConfig(action_format="react"))
    assert episode.answer == "1"
    assert episode.steps[0].message.startswith("Observation: Your reply has neither")
    assert "Finish[the answer]" in episode.steps[0].message
