"""IDEA 1: what the teacher generates, and what is selected from it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import pytest

from agentdistill import Candidate, ParseFailure, Step, Task, Trajectory, generate, read_trajectories, select
from agentdistill._core import TrajectoryWriter
from agentdistill.distillation import GenerateConfig, SelectConfig
from agentdistill.models.model import Message
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.engine import rollout
from agentdistill.rollouts.prompt import load_prompt
from agentdistill.training.examples import to_examples
from agentdistill.training.likelihood import mean_nll, rank_surprisal_ratio
from samples import TASK, code, teacher

# ---- the teacher ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "first_turn"),
    [
        (GenerateConfig(), "Thought: Now in code.\n"),
        (GenerateConfig(first_thought_prefix=True), "Thought: First I add the two. Now in code.\n"),
        (GenerateConfig(kind="cot"), "First I add the two.\n\nThat is 5."),
    ],
)
def test_a_teacher_generates(config: GenerateConfig, first_turn: str, tmp_path: Path) -> None:
    output = tmp_path / "t.jsonl"
    [trajectory] = generate([TASK], ScriptedModel("teacher", teacher), config=config, output=output, progress=False)
    assert (trajectory.answer, trajectory.score, trajectory.kind) == ("5", 1.0, config.kind)
    [candidate] = trajectory.steps[0].candidates
    assert candidate.text.startswith(first_turn)
    assert candidate.prefix == ("Thought: First I add the two." if config.first_thought_prefix else "")
    assert trajectory.messages[0][1].startswith(load_prompt(f"teacher_{config.kind}")[:60])
    assert read_trajectories(output) == [trajectory]


def test_a_chain_of_thought_has_no_first_thought_of_an_agent() -> None:
    with pytest.raises(ValueError, match="kind"):
        GenerateConfig(kind="cot", first_thought_prefix=True)
    with pytest.raises(ValueError, match="first-thought prefix"):
        GenerateConfig(action_format="react", first_thought_prefix=True)


def test_first_thoughts_are_taken_from_recorded_chains(tmp_path: Path) -> None:
    chains, asked = tmp_path / "cot.jsonl", []

    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        asked.append("<answer>" in messages[0].content)
        return teacher(messages, prefix, index)

    script, thinks = ScriptedModel("teacher", teacher), GenerateConfig(kind="cot")
    generate([TASK], script, config=thinks, output=chains, progress=False)
    config = GenerateConfig(first_thought_prefix=True, chains=str(chains))
    other = Task("r", "What is 1 + 4?", "5", "sums", "math")
    made = generate([TASK, other], ScriptedModel("teacher", policy), config=config, progress=False)
    assert [t.steps[0].candidates[0].prefix for t in made] == ["Thought: First I add the two."] * 2
    assert asked.count(True) == 1  # only for the other task
    generate([TASK], ScriptedModel("another", policy), config=config, progress=False)
    assert asked.count(True) == 2  # the other teacher's chains are not used
    with pytest.raises(ValueError, match="only used for a first-thought prefix"):
        GenerateConfig(chains=str(chains))


# ---- selection -----------------------------------------------------------------------------------

FAILED = ParseFailure("no_action", "Write code.")


def trajectory(task_id: str, actions: Sequence[object] = ("1",), **fields: Any) -> Trajectory:
    steps = [
        Step([Candidate("Hm.", action=action) if isinstance(action, ParseFailure) else Candidate(str(action))])
        for action in actions
    ]
    return Trajectory(task_id, "Q?", steps=steps, **({"answer": "1", "score": 1.0} | fields))


MADE = [
    (trajectory("right"), None),
    (trajectory("wrong", score=0.0), "wrong_answer"),
    (trajectory("not parsed once", ["1", FAILED, "1"]), "parse_failure"),
    (trajectory("never parsed", [FAILED], outcome="parse_failure", score=0.0), "parse_failure"),
    (trajectory("slow", outcome="out_of_steps", score=0.0), "out_of_steps"),
    (trajectory("cut", outcome="cut_completion", score=0.0), "cut_completion"),
    (trajectory("asked only", score=None), "not_graded"),
]


def test_the_paper_s_rule(tmp_path: Path) -> None:
    made, output = [t for t, _ in MADE], tmp_path / "kept.jsonl"
    selection = select(made, output)
    assert [t.task_id for t in selection.kept] == ["right"]
    reasons = [reason for _, reason in MADE if reason]
    assert selection.dropped == {reason: reasons.count(reason) for reason in reasons}
    assert next(iter(selection.dropped)) == "parse_failure"
    assert str(selection).startswith("1 of 7 trajectories kept; dropped: parse_failure 2")
    assert read_trajectories(output) == selection.kept
    with TrajectoryWriter(tmp_path / "made.jsonl", "{}") as writer:
        writer.append(made)
    assert select(tmp_path / "made.jsonl", output) == selection  # replaced, not appended to
    assert read_trajectories(output) == selection.kept
    assert {path.name for path in tmp_path.iterdir()} == {"kept.jsonl", "made.jsonl"}


def test_the_order_of_a_file_does_not_matter() -> None:
    made = [trajectory(name) for name in "bca"]
    assert [t.task_id for t in select(made).kept] == ["a", "b", "c"]


def test_steps_that_raised_are_kept() -> None:
    def recovers(messages: Sequence[Message], prefix: str, index: int) -> str:
        return code("1/0") if len(messages) == 2 else code("final_answer(5)")

    made = rollout([TASK], ScriptedModel("teacher", recovers), progress=False)
    assert len(select(made).kept[0].steps) == 2


# ---- more can be asked ---------------------------------------------------------------------------


def said(task_id: str, answer: str, *observed: str, **fields: Any) -> Trajectory:
    """Steps with these messages, and a last one that answers."""
    steps = [Step([Candidate(f"print({i})")], message=f"Observation:\n{text}") for i, text in enumerate(observed)]
    steps.append(Step([Candidate(f"final_answer({answer!r})")]))
    return Trajectory(task_id, "Q?", steps=steps, **({"answer": answer, "score": 1.0} | fields))


ASKED = [
    (SelectConfig(max_steps=2), said("t", "5", "a"), None),
    (SelectConfig(max_steps=2), said("t", "5", "a", "b"), "too_many_steps"),
    (SelectConfig(grounded=True), said("t", "The Blue Nile", "", "It flows into the blue  Nile."), None),
    (SelectConfig(grounded=True), said("t", "13,138", "13138"), None),
    (SelectConfig(grounded=True), said("t", "5", "15 of 25"), "not_grounded"),
    (SelectConfig(grounded=True), said("t", "Paris", "It is Rome."), "not_grounded"),
    (SelectConfig(grounded=True), said("t", "Paris"), "not_grounded"),
]


@pytest.mark.parametrize(("config", "made", "reason"), ASKED)
def test_what_else_can_be_asked(config: SelectConfig, made: Trajectory, reason: str | None) -> None:
    assert select([made], config=config) == (([], {reason: 1}) if reason else ([made], {}))


def test_of_what_says_the_same_one_is_kept() -> None:
    made = [said("b", "5", "a"), said("a", "5", "a"), said("c", "6", "a")]
    selection = select(made, config=SelectConfig(distinct=True))
    assert ([t.task_id for t in selection.kept], selection.dropped) == (["a", "c"], {"duplicate": 1})


def test_a_teacher_s_samples_are_kept_apart_and_one_is_selected(tmp_path: Path) -> None:
    tries = iter([code("final_answer(4)"), code("final_answer(5)"), code("final_answer(3 + 2)")])
    config = GenerateConfig(samples=3, temperature=0.7, concurrency=1)
    model = ScriptedModel("teacher", lambda messages, prefix, index: next(tries))
    task = replace(TASK, id="a#b")
    made = generate([task], model, config=config, output=tmp_path / "t.jsonl", progress=False)
    assert [(t.task_id, t.score) for t in made] == [("a#b#1", 0), ("a#b#2", 1), ("a#b#3", 1)]
    assert generate([task], model, config=config, output=tmp_path / "t.jsonl", progress=False) == made
    (tmp_path / "link.jsonl").symlink_to("t.jsonl")
    with pytest.raises(ValueError, match=r"link\.jsonl is both input and output"):
        select(tmp_path / "t.jsonl", tmp_path / "link.jsonl")
    selection = select(tmp_path / "t.jsonl")
    assert ([t.task_id for t in selection.kept], selection.dropped) == (
        ["a#b#2"],
        {"wrong_answer": 1, "other_sample": 1},
    )
    assert len(select([said("a#1", "5"), said("a#2", "5")]).kept) == 2, "ids of tasks may look like samples"


def test_more_samples_of_a_task_are_kept_when_asked() -> None:
    def sample(name: str, answer: str) -> Trajectory:
        return said(name, answer, "seen", sampling={"samples": 4})

    made = [sample("u#1", "9"), sample("t#3", "7"), sample("t#1", "5"), sample("t#2", "5"), sample("t#4", "8")]
    both, differing = (SelectConfig(per_task=2, distinct=distinct) for distinct in (False, True))
    kept = {config.distinct: select(made, config=config) for config in (both, differing)}
    assert [t.task_id for t in kept[False].kept] == ["t#1", "t#2", "u#1"]
    assert kept[False].dropped == {"other_sample": 2}
    assert [t.task_id for t in kept[True].kept] == ["t#1", "t#3", "u#1"], "two that differ"
    assert kept[True].dropped == {"duplicate": 1, "other_sample": 1}
    with pytest.raises(ValueError, match="per_task is 0"):
        SelectConfig(per_task=0)


def test_samples_need_a_temperature() -> None:
    with pytest.raises(ValueError, match="temperature"):
        GenerateConfig(samples=2)


@pytest.mark.parametrize("by", ["likelihood", "surprisal"])
def test_the_student_chooses_the_sample_that_suits_it_best(
    tiny_model: Path, by: Literal["likelihood", "surprisal"]
) -> None:
    """The oracle is a full forward pass in plain torch over the tokens that ``to_examples`` marks."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    student, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_model).eval(),
        AutoTokenizer.from_pretrained(tiny_model),
    )

    def unsuitable(made: Trajectory) -> float:
        [example] = to_examples([made], tokenizer).examples
        with torch.no_grad():
            logprobs = student(input_ids=torch.tensor([example["input_ids"]])).logits[0].log_softmax(-1).tolist()
        ranks, losses = list[int](), list[float]()
        for n, (token, learnt) in enumerate(zip(example["input_ids"], example["completion_mask"], strict=True)):
            if learnt:
                losses.append(-logprobs[n - 1][token])
                ranks.append(min(100, 1 + sum(other > logprobs[n - 1][token] for other in logprobs[n - 1])))
        return mean(losses) if by == "likelihood" else mean(ranks) / mean(losses)

    samples = [said(f"t#{k}", answer, "seen", sampling={"samples": 4}) for k, answer in enumerate("~xZ5", 1)]
    values = [unsuitable(sample) for sample in samples]
    measure = mean_nll if by == "likelihood" else rank_surprisal_ratio
    assert measure(samples, str(tiny_model)) == pytest.approx(values, abs=1e-4)
    best = samples[values.index(min(values))]
    other = said("u#1", "5", sampling={"samples": 4})
    selection = select([*samples, other], config=SelectConfig(student=str(tiny_model), by=by))
    assert selection == ([best, other], {"other_sample": 3})
    two = select(samples, config=SelectConfig(student=str(tiny_model), by=by, per_task=2)).kept
    assert two == sorted(samples, key=lambda sample: values[samples.index(sample)])[:2]
    if by == "likelihood":
        assert best != samples[0], "the first would be kept without a student"


@pytest.mark.parametrize(
    ("settings", "message"), [({"by": "luck"}, "likelihood or surprisal"), ({"by": "surprisal"}, "give student")]
)
def test_samples_are_chosen_for_a_student(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectConfig(**settings)
