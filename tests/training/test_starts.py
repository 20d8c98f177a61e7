"""Reinforcement learning that starts inside recorded episodes: where it starts, and which tokens have a loss."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentdistill import Task, Trajectory, cli, correct, improve, read_trajectories, rollout
from agentdistill._core import Candidate, ParseFailure, Step
from agentdistill.models.model import Message
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.player import GivenSteps, RolloutConfig, sandbox_of
from agentdistill.rollouts.session import state_before
from agentdistill.training.config import ImproveConfig
from agentdistill.training.correction import CorrectConfig
from agentdistill.training.starts import before_errors, check_starts, rollout_from, task_at
from agentdistill.trajectories import steps_given
from samples import code

TASKS = [
    Task("wrong", "Count to 3, and err.", "3", "counts", "math"),
    Task("lost", "Count to 4, and err.", "4", "counts", "math"),
    Task("right", "Count to 3.", "3", "counts", "math"),
]


def counting(error: str) -> ScriptedModel:
    def turn(messages: Sequence[Message], prefix: str, index: int) -> str:
        number = sum(message.role == "assistant" for message in messages)
        err = error if "err" in messages[-1 - 2 * number].content else ""
        return code(["total = 1", f"total += 1{err}", "final_answer(total + 1)"][number], "I count.")

    return ScriptedModel(f"counts with {error}" if error else "counts", turn)


@pytest.fixture(scope="module")
def corrected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a teacher makes of a student's episodes: it corrects the second step of "wrong", and cannot solve "lost"."""
    file = tmp_path_factory.mktemp("corrected") / "corrected.jsonl"
    wrong = rollout(TASKS, counting(" + 5"), config=RolloutConfig(keep_states=True), progress=False)
    correct(wrong, counting(""), config=CorrectConfig(), output=file, progress=False)
    return file


def test_an_episode_starts_before_the_first_error(corrected: Path, tmp_path: Path) -> None:
    [start] = before_errors(read_trajectories(corrected))
    assert (start.trajectory.task_id, start.steps, start.by) == ("wrong", 1, "counts with  + 5")
    assert task_at(start) == TASKS[0]
    config = RolloutConfig(keep_states=True)
    starts = {"a": start, "b": TASKS[2]}
    inside, whole = rollout_from(starts, counting(""), (), config, tmp_path / "rollouts.jsonl")
    assert (inside.task_id, inside.question, inside.score) == ("a", TASKS[0].question, 1)
    assert (inside.sampling["given_steps"], inside.sampling["given_by"]) == (1, "counts with  + 5")
    assert (whole.task_id, whole.score, steps_given(whole)) == ("b", 1, 0)
    sandbox = sandbox_of(config)
    assert sandbox.run(state_before(inside, 2, sandbox), "total")[0].value == "2", "continues with the variables"


def test_exactly_what_is_sampled_after_the_start_is_learnt() -> None:
    reinforcement = pytest.importorskip("agentdistill.training.reinforcement", reason="needs agentdistill[train]")

    def step(read: list[int], written: list[int]) -> Step:
        return Step([Candidate("?", token_ids=written, action=ParseFailure("no_action", "?"))], prompt_token_ids=read)

    steps = [step([1, 2], [3]), step([1, 2, 3, 4], [5, 6]), step([1, 2, 3, 4, 5, 6, 7, 8], [9])]
    episode = Trajectory(
        "a", "?", reference="1", steps=steps, score=0.0, sampling={"given_steps": 1, "given_by": "student"}
    )
    assert reinforcement.as_sampled(episode, 4096) == ([1, 2, 3, 4], [5, 6, 7, 8, 9], [1, 1, 0, 0, 1])
    assert reinforcement.as_sampled(episode, 8) == ([1, 2, 3, 4], [5, 6], [1, 1]), "the third turn does not fit"
    assert reinforcement.reward(episode, 0.5) == -1, "the given step is not the student's failure"


def test_the_loss_of_a_step_from_inside_an_episode(corrected: Path, tiny_model: Path, tmp_path: Path) -> None:
    """The oracle reads the recorded turn after the start in plain torch. The given turn has no loss."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM

    from agentdistill.training.examples import load_tokenizer

    teacher = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        for weight in teacher.parameters():
            weight.mul_(1.5)
    teacher.save_pretrained(tmp_path / "teacher")
    load_tokenizer(str(tiny_model)).save_pretrained(tmp_path / "teacher")
    config = ImproveConfig(
        method="distill",
        teacher=str(tmp_path / "teacher"),
        prompt="",
        max_tokens=8,
        max_steps=2,
        last_word=False,
        steps=1,
        tasks_per_step=1,
        group=1,
        device_batch_size=1,
        weights="full",
        precision="float32",
    )
    starts = before_errors(read_trajectories(corrected))
    improved = improve(tiny_model, starts, config=config, output=tmp_path / "improved", progress=False)
    [episode] = read_trajectories(improved / "rollouts" / "step-000001.jsonl")
    given, own_step = episode.steps
    assert given.candidates[0].text == starts[0].trajectory.steps[0].candidates[0].text
    read, written = own_step.prompt_token_ids or [], own_step.candidates[0].token_ids or []
    student = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        own, theirs = (
            model(input_ids=torch.tensor([read + written])).logits[0, len(read) - 1 : -1].log_softmax(-1)
            for model in (student, teacher)
        )
    divergence = (own.exp() * (own - theirs)).sum(-1).mean().item()
    losses = json.loads((improved / "train.json").read_text())["result"]["losses"]
    assert losses == pytest.approx([divergence], rel=1e-3)


def test_what_cannot_be_started_from(corrected: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    [start] = before_errors(read_trajectories(corrected))
    [stateless] = rollout(TASKS[:1], counting(" + 5"), progress=False)
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (start._replace(steps=9), {}, "continues after 9 of 3 steps"),
        (start, {"max_steps": 1}, "fewer than max_steps 1"),
        (GivenSteps(stateless, 1), {}, "record it with keep_states"),
    ]
    for given, settings, message in cases:
        with pytest.raises(ValueError, match=message):
            check_starts([TASKS[0], given], RolloutConfig(**settings))
    uncorrected = tmp_path / "uncorrected.jsonl"
    rollout(TASKS[:1], counting(""), output=uncorrected, progress=False)
    for options, message in (
        ([], "give --tasks, --from or both"),
        (["--from", str(uncorrected)], "no corrected episode"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["improve", "student", *options, "-o", str(tmp_path / "improved")])
        assert message in " ".join(capsys.readouterr().err.split())
