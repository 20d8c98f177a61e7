"""First-error correction: the teacher continues from the student's first wrong step, and only its steps are learnt."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentdistill import (
    AgentDistillError,
    ModelError,
    Task,
    Trajectory,
    TrajectoryError,
    cli,
    correct,
    read_trajectories,
    rollout,
    select,
)
from agentdistill.models.model import Generation, Message, Sampling
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.rollouts.prompt import load_prompt
from agentdistill.training.correction import CorrectConfig
from agentdistill.training.examples import to_examples
from chat_templates import CHATML
from samples import code, tokenizer

CELLS = ["total = 1", "total += 1", "total += 1", "final_answer(total)"]
WRONG = ["total = 2", "total += 2", "total += 2", "final_answer(total + 1)"]


def cells_run(messages: Sequence[Message]) -> int:
    return sum("Code:" in message.content for message in messages if message.role == "assistant")


def student(messages: Sequence[Message], prefix: str, index: int) -> str:
    """Counts to 3, with an error in the cell that the question names. On "mumble", starts without an action."""
    question, turn = messages[1].content, cells_run(messages)
    if "mumble" in question and len(messages) == 2:
        return "Hm."
    return code((WRONG if str(turn) in question else CELLS)[turn], "I, student, count.")


def teacher(messages: Sequence[Message], prefix: str, index: int) -> str:
    """Continues with the count that it finds in the State; cannot answer the impossible question."""
    turn = cells_run(messages)
    known = "impossible" not in messages[1].content
    return code(CELLS[turn] if known else "final_answer(None)", "I, teacher, count.")


QUESTIONS = {
    "right": "Count.",
    "first": "Count, err in 0.",
    "second": "Count, err in 1.",
    "twice": "Count, err in 1 and 2.",
    "last": "Count, err in 3.",
    "mumbled": "Count, mumble, and err in 1.",
    "impossible": "Count, err in 1: impossible.",
}
GIVEN = {"first": 0, "second": 1, "twice": 1, "last": 3, "mumbled": 2, "impossible": 0}
STUDENT, TEACHER = ScriptedModel("student", student), ScriptedModel("teacher", teacher)


@pytest.fixture(scope="module")
def rolled_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the student's trajectories."""
    tasks = [Task(name, question, "3", "counts", "math") for name, question in QUESTIONS.items()]
    file = tmp_path_factory.mktemp("student") / "trajectories.jsonl"
    rollout(tasks, STUDENT, config=RolloutConfig(keep_states=True), output=file, progress=False)
    return file


@pytest.fixture(scope="module")
def corrected(rolled_out: Path) -> dict[str, Trajectory]:
    return {trajectory.task_id: trajectory for trajectory in correct(rolled_out, TEACHER, progress=False)}


def test_the_teacher_goes_on_from_the_first_wrong_step(rolled_out: Path, corrected: dict[str, Trajectory]) -> None:
    before = {trajectory.task_id: trajectory for trajectory in read_trajectories(rolled_out)}
    assert before["right"].score == 1
    assert {name: t.sampling["given_steps"] for name, t in corrected.items()} == GIVEN
    for name, trajectory in corrected.items():
        given, own = trajectory.steps[: GIVEN[name]], trajectory.steps[GIVEN[name] :]
        assert given == before[name].steps[: GIVEN[name]]
        assert own and all("teacher" in step.candidates[0].text for step in own)
        assert (trajectory.model, trajectory.sampling["given_by"]) == ("teacher", "student")
        assert trajectory.messages[0][1].startswith(load_prompt("teacher_agent")[:60])
        assert (trajectory.score, trajectory.reference) == (float(name != "impossible"), "3")


def test_only_the_teacher_s_steps_are_learnt(corrected: dict[str, Trajectory]) -> None:
    selection = select(list(corrected.values()))
    assert selection.dropped == {"wrong_answer": 1}, "that the student mumbled is no reason"
    tokens = tokenizer(CHATML)
    made = to_examples(selection.kept, tokens)
    assert made.dropped == {} and len(made.examples) == len(selection.kept)
    for trajectory, example in zip(selection.kept, made.examples, strict=True):
        own = trajectory.steps[trajectory.sampling["given_steps"] :]
        learnt = [i for i, m in zip(example["input_ids"], example["completion_mask"], strict=True) if m]
        assert tokens.decode(learnt) == "".join(f"{step.candidates[0].text}<end_code><|im_end|>" for step in own)
        assert tokens.decode(example["input_ids"]).count("I, student") == cells_run_before(trajectory)
        assert sum(span.end - span.start for span in example["spans"]) == len(learnt)
    last = to_examples([corrected["last"]], tokens).examples[0]
    short = to_examples([corrected["last"]], tokens, max_length=len(last["input_ids"]) - 2)
    assert (short.examples, short.dropped) == ([], {"too_long": 1}), "what is left of it is the student's"


def cells_run_before(trajectory: Trajectory) -> int:
    given = trajectory.steps[: trajectory.sampling["given_steps"]]
    return sum("Code:" in step.candidates[0].text for step in given)


class Failing(ScriptedModel):
    """A teacher that is not available for some questions."""

    def __init__(self, without: str) -> None:
        super().__init__("teacher", teacher)
        self.without, self.asked = without, 0

    async def generate(
        self, messages: Sequence[Message], sampling: Sampling, *, n: int = 1, prefix: str = ""
    ) -> Generation:
        self.asked += 1
        if re.search(self.without, messages[1].content):
            raise ModelError("away")
        return await super().generate(messages, sampling, n=n, prefix=prefix)


def test_each_is_corrected_once(rolled_out: Path, corrected: dict[str, Trajectory], tmp_path: Path) -> None:
    output = tmp_path / "corrected.jsonl"
    made = correct(rolled_out, Failing("err in 1"), output=output, progress=False)
    assert [trajectory.outcome for trajectory in made].count("model_error") == 4
    assert {trajectory.task_id for trajectory in read_trajectories(output)} == {"first", "last"}
    correct(rolled_out, TEACHER, output=output, progress=False)
    again = Failing("never")
    done = correct(rolled_out, again, output=output, progress=False)
    assert again.asked == 0
    assert [len(trajectory.steps) for trajectory in done] == [len(t.steps) for t in corrected.values()]
    other = [trajectory for trajectory in read_trajectories(rolled_out) if trajectory.task_id != "last"]
    with pytest.raises(TrajectoryError, match=r"other settings: corrected \(there"):
        correct(other, TEACHER, output=output, progress=False)


def test_what_cannot_be_corrected_is_refused(rolled_out: Path) -> None:
    tasks = [Task("q", QUESTIONS["last"], "3", "counts", "math")]
    stateless = rollout(tasks, STUDENT, progress=False)
    with pytest.raises(ValueError, match="q was recorded without its States"):
        correct(stateless, TEACHER, progress=False)
    with pytest.raises(AgentDistillError, match="a sandbox with the same tools and seed"):
        correct(rolled_out, TEACHER, config=CorrectConfig(seed=8), progress=False)
    with pytest.raises(ValueError, match="several tasks"):
        correct(2 * read_trajectories(rolled_out), TEACHER, progress=False)
    with pytest.raises(ValueError, match="only an agent's"):
        CorrectConfig(kind="cot")
    with pytest.raises(ValueError, match="neither ray nor checkpoints"):
        CorrectConfig(checkpoints=True)
    assert correct([replace_outcome(stateless[0])], TEACHER, progress=False) == []


def replace_outcome(trajectory: Trajectory) -> Trajectory:
    """The trajectory as if a server had gone away."""
    return Trajectory.from_json(trajectory.to_json().replace('"outcome":"final_answer"', '"outcome":"model_error"'))


def test_corrections_join_what_the_teacher_did_alone(
    rolled_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the commands and a recording of the teacher: of the same task, ``select`` keeps the first in the file."""
    wrong, record, alone, output, both, kept = (tmp_path / f"{name}.jsonl" for name in "wratbk")
    wrong.write_text("".join(line for line in rolled_out.open() if "impossible" not in line))
    tasks = [Task(name, question, "3", "counts", "math") for name, question in QUESTIONS.items()]
    rollout(tasks, TEACHER, output=alone, progress=False)
    correct(wrong, TEACHER, output=record, progress=False)
    cli.main(["correct", str(wrong), "--model", f"recorded:{record}", "-o", str(output)])
    assert capsys.readouterr().out == "5 of 5 trajectories kept\n"
    both.write_bytes(output.read_bytes() + alone.read_bytes())
    cli.main(["select", str(both), "-o", str(kept)])
    began = {trajectory.task_id: trajectory.sampling.get("given_steps") for trajectory in read_trajectories(kept)}
    assert began == {name: GIVEN.get(name) for name in QUESTIONS if name != "impossible"}
