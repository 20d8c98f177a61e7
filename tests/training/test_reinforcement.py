"""Reinforcement learning on a student's own rollouts: its gradient, what it leads to, and a run that is killed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from agentdistill import AgentDistillError, Task, Trajectory, improve, read_trajectories, rollout, train
from agentdistill.models.model import ModelError
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.training.config import ImproveConfig, TrainConfig
from agentdistill.training.examples import load_tokenizer, to_examples
from agentdistill.training.starts import task_at
from samples import code

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from agentdistill.training.reinforcement import as_sampled, reward, tasks_of_step  # noqa: E402  # it imports torch

TASKS = [Task(f"t{n}", f"{n}?", "1", "guesses", "math") for n in range(3)]
CONFIG = ImproveConfig(
    prompt="",
    max_steps=2,
    max_tokens=80,
    group=4,
    tasks_per_step=2,
    steps=1,
    weights="full",
    learning_rate=1e-3,
    precision="float32",
)


@pytest.fixture(scope="module")
def student(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent that answers 0 about as often as 1."""
    return guesser("01", tiny_model, tmp_path_factory.mktemp("student") / "s")


@pytest.fixture(scope="module")
def teacher(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent that answers 0."""
    return guesser("0", tiny_model, tmp_path_factory.mktemp("teacher") / "t")


def guesser(answers: str, base: Path, output: Path) -> Path:
    """Train an agent that gives one of ``answers``, whatever the question."""
    episodes = []
    for answer in answers:
        guesser = ScriptedModel("guesser", lambda messages, prefix, index, a=answer: code(f"final_answer({a})", "I."))
        asked = [replace(task, id=f"{task.id}{answer}") for task in TASKS]
        episodes += rollout(asked, guesser, config=RolloutConfig(prompt=""), progress=False)
    examples = to_examples(episodes, load_tokenizer(str(base)), prompt="").examples
    learning = TrainConfig(
        "full", learning_rate=1e-2, schedule="cosine", beta2=0.98, epochs=40, batch_size=6, precision="float32"
    )
    return train(examples, base, output, learning, progress=False)


def test_a_library_to_report_to_that_is_not_installed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentdistill.training.settings.find_spec", lambda name: None)
    with pytest.raises(AgentDistillError, match="wandb is not installed: pip install wandb"):
        improve(tiny_model, TASKS, config=replace(CONFIG, report_to="wandb"), output=tmp_path / "s", progress=False)
    assert not (tmp_path / "s").exists()


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_a_step_follows_the_gradient_of_grpo(student: Path, tmp_path: Path) -> None:
    """Adam's first step is the sign of the gradient. The oracle is plain torch, on the recorded episodes."""
    from transformers import AutoModelForCausalLM

    improved = improve(student, TASKS, config=CONFIG, output=tmp_path / "improved", progress=False)
    card = (improved / "README.md").read_text()
    assert f"on its own rollouts of {len(TASKS)} tasks" in card and (improved / "reward.png").exists()
    model = AutoModelForCausalLM.from_pretrained(student)
    loss, tokens = torch.zeros(()), 0
    for episode, advantage in episodes_with_advantages(improved):
        _, logprobs = sampled_logprobs(episode, model)
        loss = loss - advantage * logprobs.sum()
        tokens += len(logprobs)
    (loss / tokens).backward()
    assert_a_step_against_the_gradient(model, student, improved)


def test_a_step_follows_the_gradient_of_reward_and_teacher(student: Path, tiny_model: Path, tmp_path: Path) -> None:
    """As for GRPO, but the tokens of a wrong episode are worth what the teacher, the untrained model, says of them."""
    from transformers import AutoModelForCausalLM

    config = replace(CONFIG, method="dgpo", teacher=str(tiny_model), teacher_weight=0.5)
    improved = improve(student, TASKS, config=config, output=tmp_path / "improved", progress=False)
    model, teacher = (AutoModelForCausalLM.from_pretrained(folder) for folder in (student, tiny_model))
    loss, value, tokens = torch.zeros(()), 0.0, 0
    for episode, advantage in episodes_with_advantages(improved):
        (_, logprobs), (_, theirs) = (sampled_logprobs(episode, each) for each in (model, teacher))
        worth = torch.full_like(logprobs, advantage) if episode.score == 1 else 0.5 * (theirs - logprobs)
        loss = loss - (worth.detach() * logprobs).sum()
        value -= worth.sum().item()
        tokens += len(logprobs)
    (loss / tokens).backward()
    record = json.loads((improved / "train.json").read_text())["result"]
    assert record["losses"] == pytest.approx([value / tokens], rel=1e-3), "the ratio of probabilities is 1"
    assert_a_step_against_the_gradient(model, student, improved)


def episodes_with_advantages(improved: Path) -> list[tuple[Trajectory, float]]:
    """The episodes of the first step, of which some are right and some wrong, each with its advantage in its group."""
    episodes = read_trajectories(improved / "rollouts" / "step-000001.jsonl")
    groups: dict[str, list[float]] = {}
    for episode in episodes:
        groups.setdefault(episode.task_id.partition("@")[0], []).append(reward(episode) or 0.0)
    assert [len(group) for group in groups.values()] == [4, 4]
    assert any(len(set(group)) > 1 for group in groups.values()), "nothing to learn: the test would prove nothing"
    advantages = []
    for episode in episodes:
        group = groups[episode.task_id.partition("@")[0]]
        advantages.append(((reward(episode) or 0.0) - mean(group)) / (stdev(group) + 1e-4))
    return list(zip(episodes, advantages, strict=True))


def sampled_logprobs(episode: Trajectory, model: Any) -> tuple[Any, Any]:
    """A model's log probabilities at each token that was sampled in an episode: of all tokens, and of that token."""
    prompt, completion, mask = as_sampled(episode, 4096)
    logprobs = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    sampled = torch.tensor(mask, dtype=torch.bool)
    return logprobs[sampled], logprobs.gather(1, torch.tensor(completion)[:, None])[sampled, 0]


def test_a_step_follows_the_gradient_of_distillation(student: Path, tiny_model: Path, tmp_path: Path) -> None:
    """As for GRPO. The tasks need no answers; the teacher is the untrained model."""
    from transformers import AutoModelForCausalLM

    config = replace(CONFIG, method="distill", teacher=str(tiny_model), group=1, device_batch_size=1)
    tasks = [replace(task, answer=None) for task in TASKS]
    improved = improve(student, tasks, config=config, output=tmp_path / "improved", progress=False)
    episodes = read_trajectories(tmp_path / "improved" / "rollouts" / "step-000001.jsonl")
    model, teacher = (AutoModelForCausalLM.from_pretrained(folder) for folder in (student, tiny_model))
    divergence, tokens = torch.zeros(()), 0
    for episode in episodes:
        (own, _), (theirs, _) = (sampled_logprobs(episode, each) for each in (model, teacher))
        divergence = divergence + (own.exp() * (own - theirs.detach())).sum()
        tokens += len(own)
    (divergence / tokens).backward()
    record = json.loads((tmp_path / "improved" / "train.json").read_text())["result"]
    assert record["losses"] == pytest.approx([(divergence / tokens).item()], rel=1e-3) and record["rewards"] == []
    assert "mean loss" in (improved / "README.md").read_text()
    assert_a_step_against_the_gradient(model, student, improved)


def assert_a_step_against_the_gradient(model: Any, student: Path, improved: Path) -> None:
    before, after = weights(student), weights(improved)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if name in before}
    typical = torch.cat([gradient.abs().flatten() for gradient in gradients.values()]).mean()
    compared = 0
    for name, gradient in gradients.items():
        clear = gradient.abs() > typical / 10
        change = after[name] - before[name]
        assert torch.equal(change[clear].sign(), -gradient[clear].sign()), name
        compared += int(clear.sum())
    assert compared > 1000


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_student_gets_more_answers_right(student: Path, tmp_path: Path, kind: Any) -> None:
    rate = {"full": 3e-4, "lora": 1e-3}[kind]
    config = replace(CONFIG, group=8, tasks_per_step=3, max_steps=1, steps=16, weights=kind, rank=8, learning_rate=rate)
    improved = improve(student, TASKS, config=config, output=tmp_path / "improved", progress=False)
    record = json.loads((tmp_path / "improved" / "train.json").read_text())
    rewards = record["result"]["rewards"]
    assert len(rewards) == record["result"]["steps"] == 16
    assert mean(rewards[:4]) < mean(rewards[-4:])
    assert share_of_ones(improved) > 0.5
    assert not (tmp_path / "improved" / "checkpoints").exists()


def test_tasks_that_are_never_solved_are_learnt_from_the_teacher(student: Path, teacher: Path, tmp_path: Path) -> None:
    """No episode has a reward here, so GRPO would learn nothing."""
    tasks = [replace(task, answer="2") for task in TASKS]
    config = replace(CONFIG, method="dgpo", teacher=str(teacher), group=8, tasks_per_step=3, max_steps=1, steps=5)
    config = replace(config, learning_rate=3e-4)
    improved = improve(student, tasks, config=config, output=tmp_path / "improved", progress=False)
    assert json.loads((improved / "train.json").read_text())["result"]["rewards"] == [0] * 5
    steps = [read_trajectories(file) for file in sorted((improved / "rollouts").iterdir())]
    first, *later = [mean(episode.answer == "0" for episode in episodes) for episodes in steps]
    assert mean(later) > first + 0.2


def share_of_ones(folder: Path) -> float:
    sampling = RolloutConfig(prompt="", max_tokens=80, temperature=1.0, top_p=1.0)
    asked = [replace(TASKS[0], id=str(n)) for n in range(20)]
    sampled = rollout(asked, f"transformers:{folder},dtype=float32", config=sampling, progress=False)
    return mean(episode.answer == "1" for episode in sampled)


KILLED = """
import os, signal, sys
from agentdistill.training import reinforcement
from test_reinforcement import TASKS, improve, resumable

whole = reinforcement.rollout_from

def rollout_from(starts, *args):
    if next(iter(starts)).split("@")[1].startswith("4#"):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(starts, *args)

reinforcement.rollout_from = rollout_from
student, teacher, method, output = sys.argv[1:]
improve(student, TASKS, config=resumable(method, teacher), output=output, progress=False)
"""


def resumable(method: Any, teacher: str) -> ImproveConfig:
    return replace(CONFIG, method=method, teacher=None if method == "grpo" else teacher, steps=5, save_steps=2)


@pytest.mark.parametrize("method", ["grpo", "distill", "dgpo"])
def test_a_killed_run_goes_on_as_if_it_had_not_been_killed(
    student: Path, tiny_model: Path, tmp_path: Path, method: str
) -> None:
    """The same rewards, and weights that differ by rounding (1e-4, where a step changes a weight by up to 1e-3)."""
    path = os.pathsep.join(map(str, [Path(__file__).parent, Path(__file__).parents[1]]))
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(student), str(tiny_model), method, str(tmp_path / "killed")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([path, os.environ.get("PYTHONPATH", "")])},
    )
    assert child.returncode == -signal.SIGKILL
    config = resumable(method, str(tiny_model))
    ends = [
        improve(student, TASKS, config=config, output=tmp_path / name, progress=False) for name in ("killed", "whole")
    ]
    killed, whole = (json.loads((end / "train.json").read_text())["result"] for end in ends)
    assert Path(killed["resumed_from"]).name == "checkpoint-2" and whole["resumed_from"] is None
    assert killed["rewards"] == whole["rewards"] and len(killed["rewards"]) == 5
    assert killed["losses"] == pytest.approx(whole["losses"], abs=1e-4)
    for name, weight in weights(ends[0]).items():
        torch.testing.assert_close(weight, weights(ends[1])[name], atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="another run"):
        improve(student, TASKS, config=replace(config, steps=6), output=ends[0], progress=False)


def test_all_tasks_come_once_before_any_comes_again() -> None:
    tasks = [replace(TASKS[0], id=str(n)) for n in range(5)]
    order = [task_at(task).id for step in range(1, 6) for task in tasks_of_step(tasks, step, CONFIG)]
    assert sorted(order[:5]) == sorted(order[5:]) == ["0", "1", "2", "3", "4"] and order[:5] != order[5:]


def test_exactly_the_sampled_tokens_are_learnt(student: Path) -> None:
    config = RolloutConfig(prompt="", max_tokens=11, max_steps=2, last_word=False)  # every turn is cut off
    [episode] = rollout(TASKS[:1], f"transformers:{student}", config=config, progress=False)
    turns = [(step.prompt_token_ids or [], step.candidates[0].token_ids or []) for step in episode.steps]
    assert len(turns) > 1
    prompt, completion, mask = as_sampled(episode, 4096)
    assert prompt == turns[0][0] and prompt + completion == turns[-1][0] + turns[-1][1]
    learnt = [token for token, sampled in zip(completion, mask, strict=True) if sampled]
    assert learnt == [token for _, written in turns for token in written]
    fits = len(turns[1][0]) + len(turns[1][1]) - 1
    assert as_sampled(episode, fits).completion == turns[0][1], "the second turn does not fit"
    nothing = as_sampled(episode, 5)
    assert len(nothing.prompt + nothing.completion) == 5 and nothing.mask == [0]


def test_the_reward_is_the_grade_less_penalties(tiny_model: Path) -> None:
    config = RolloutConfig(prompt="", max_tokens=12, max_steps=2)
    [failed] = rollout(TASKS[:1], f"transformers:{tiny_model}", config=config, progress=False)
    assert reward(failed) == 0 and reward(failed, 0.25) == -0.25 * len(failed.steps)
    right = ScriptedModel("right", lambda messages, prefix, index: code("final_answer(1)"))
    [solved] = rollout(TASKS[:1], right, progress=False)
    assert reward(solved, 0.25) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group": 1}, "group is 1"),
        ({"device_batch_size": 3}, "divisor of the 2 x 4 episodes"),
        ({"temperature": 0.0}, "plain agent"),
        ({"candidates": 4}, "plain agent"),
        ({"steps": 0}, "steps is 0"),
        ({"checkpoints": True}, "save_steps, not checkpoints"),
        ({"weights": "qlora"}, "lora or full"),
        ({"method": "distill"}, "distill and dgpo need a teacher"),
        ({"method": "dgpo"}, "distill and dgpo need a teacher"),
        ({"teacher_weight": 0.5}, "only with method dgpo"),
        ({"method": "dgpo", "teacher": "x", "teacher_weight": 0.0}, "more than 0"),
        ({"teacher": "x"}, "grpo none"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **settings)


def test_what_cannot_be_improved(tiny_model: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    output = tmp_path / "improved"
    with pytest.raises(ValueError, match="'t0' has no answer"):
        improve(tiny_model, [replace(TASKS[0], answer=None), *TASKS], config=CONFIG, output=output)
    with pytest.raises(ValueError, match="1 tasks, and 2 in each step"):
        improve(tiny_model, TASKS[:1], config=CONFIG, output=output)
    with pytest.raises(ModelError, match="is an adapter"):
        improve(tiny_adapter, TASKS, config=CONFIG, output=output)
    other = load_tokenizer(str(tiny_model))
    other.add_tokens(["another"])
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="another tokenizer"):
        config = replace(CONFIG, method="distill", teacher=str(tmp_path / "other"))
        improve(tiny_model, TASKS, config=config, output=output)
    assert not output.exists()
