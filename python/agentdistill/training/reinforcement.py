"""Let a trained student go on learning from its own rollouts: by GRPO (arXiv:2402.03300), from a teacher, or both.

In each step the student solves a few tasks, each several times, as an agent with the task's tools, from the question or
from a State inside a recorded episode (starts.py). The reward of an episode is its grade. TRL's GRPOTrainer raises the
probability of what was sampled in episodes that are better than others of the same task, and lowers the rest. TRL's
DistillationTrainer moves the student towards the distribution of a teacher at each token instead
(on_policy_distillation.py); distillation_guided.py does so only in wrong episodes. Observations, prompts and ends of
turns that were not sampled have no loss. A run can be killed at any time; the same call resumes it from its last
checkpoint. Its folder holds what that of ``train`` does (trainer.py), and

    rollouts/       the episodes of each step, step-000001.jsonl and so on

Weights are never copied: transformers.py decodes with the model that is trained. Not here: training on a teacher's
trajectories (trainer.py), and several processes.
"""

import os
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from agentdistill._core import ParseFailure, Trajectory
from agentdistill.event_loop import run_blocking
from agentdistill.extras import require
from agentdistill.rollouts.engine import check_complete
from agentdistill.tools.tool import Tool
from agentdistill.training.config import ImproveConfig
from agentdistill.training.examples import load_tokenizer
from agentdistill.training.model_card import write_improved_card
from agentdistill.training.run_folder import (
    checkpoints,
    claim,
    clear,
    last_checkpoint,
    processes,
    write_record,
)
from agentdistill.training.starts import Start, check_starts, rollout_from, task_at
from agentdistill.training.trainer import base_of, history, report, show_progress
from agentdistill.trajectories import is_right, is_undecided, steps_given


class Sampled(NamedTuple):
    """An episode as GRPO learns from it."""

    prompt: list[int]
    completion: list[int]
    """Everything after the prompt: the student's turns, and the observations between them."""
    mask: list[int]
    """1 for each id of the completion that the student sampled, else 0."""


def improve(
    student: str | Path,
    tasks: Sequence[Start],
    tools: Sequence[Tool] = (),
    config: ImproveConfig | None = None,
    *,
    output: str | Path,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Train ``student`` (a folder or hub id) on its own rollouts of ``tasks``; return the folder to load it from.

    In place of a task, the first steps of one of its episodes can be given (``GivenSteps``), recorded with
    ``keep_states``, the same ``tools`` and ``config.seed``: the student continues from there, and learns only what
    follows. Each task needs an answer, which grades the episodes, unless the student learns only from a teacher.
    ``overwrite`` removes an existing training run at ``output``.

    Raises ValueError for a task without an answer, given steps without their States or with none to follow, a teacher
    with another tokenizer, too few tasks for a step, or an ``output`` of another run; ModelError if the student or the
    teacher is not there; AgentDistillError without agentdistill[train], and if episodes keep failing for another reason
    than the student; OSError for files that cannot be written.
    """
    require("trl", "train")
    config = config or ImproveConfig()
    output = Path(output)
    if config.method != "distill" and (unknown := [task.id for task in map(task_at, tasks) if task.answer is None]):
        raise ValueError(f"task {unknown[0]!r} has no answer, so its episodes have no reward")
    if len(tasks) < config.tasks_per_step:
        raise ValueError(f"{len(tasks)} tasks, and {config.tasks_per_step} in each step: give more tasks")
    check_starts(tasks, config)
    if processes() > 1:
        raise ValueError("reinforcement learning runs in one process: start it without torchrun")
    base, tokenizer = base_of(str(student))
    if config.teacher and load_tokenizer(config.teacher).get_vocab() != tokenizer.get_vocab():
        raise ValueError(f"{config.teacher} has another tokenizer than {student}: it cannot score its tokens")
    run = {"model": str(student), "tasks": len(tasks), **config.settings(), "learning_rate": config.training.rate}
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func may change; its version is locked
    from agentdistill.training.settings import improve_settings  # imported here because it imports torch

    settings = improve_settings(config, output)
    if overwrite:
        clear(output)
    if not claim(output, run):
        _fit(base, tokenizer, tasks, tools, output, config, settings, run, progress)
    return output if config.weights == "full" else output / "merged"


def _fit(
    model: str,
    tokenizer: Any,
    tasks: Sequence[Start],
    tools: Sequence[Tool],
    output: Path,
    config: ImproveConfig,
    settings: Any,
    run: dict[str, Any],
    progress: bool,
) -> None:
    from datasets import Dataset
    from transformers.utils import logging as transformers_logging
    from trl import GRPOTrainer

    from agentdistill.models.device import default_device
    from agentdistill.models.pretrained import load
    from agentdistill.models.transformers import TransformersModel
    from agentdistill.training.settings import lora_settings
    from agentdistill.training.student import load_student, save_student

    transformers_logging.disable_progress_bar()  # show_progress shows its own

    def rollouts(prompts: list[str], trainer: Any) -> dict[str, list[Any]]:
        """Let the student as it is now solve the tasks of this step: TRL's own order of tasks begins anew on resume."""
        step = trainer.state.global_step + 1
        asked = [start for start in tasks_of_step(tasks, step, config) for _ in range(config.group)]
        episodes = {f"{task_at(start).id}@{step}#{number}": start for number, start in enumerate(asked)}
        file = output / "rollouts" / f"step-{step:06}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.unlink(missing_ok=True)  # of a run that was killed in this step
        with _decoding(trainer.model):
            policy = TransformersModel.of(trainer.model, tokenizer, model)
            try:
                made = rollout_from(episodes, policy, tools, config, file)
            finally:
                run_blocking(policy.close())
        check_complete(made, file)
        learnt = [as_sampled(trajectory, config.max_length) for trajectory in made]
        return {
            "prompt_ids": [one.prompt for one in learnt],
            "completion_ids": [one.completion for one in learnt],
            "env_mask": [one.mask for one in learnt],
            "logprobs": None,  # type: ignore[dict-item]  # the policy did not change, so TRL computes them
            "reward": [reward(trajectory, config.parse_failure_penalty) for trajectory in made],
            "right": [is_right(trajectory) for trajectory in made],
        }

    weights = load_student(model, config.training, bfloat16=settings.bf16)
    multimodal = weights.config.get_text_config() is not weights.config
    common = {
        "model": weights,
        "args": settings,
        "processing_class": tokenizer,
        "peft_config": lora_settings(config.training, multimodal=multimodal) if config.training.adapts else None,
    }
    if config.teacher:
        teacher, _ = load(config.teacher, default_device(), dtype="bfloat16" if settings.bf16 else "float32")
        common["teacher_model"] = teacher
    episodes = config.group if config.method == "distill" else 1  # GRPOTrainer repeats each row itself
    common["train_dataset"] = Dataset.from_list([{"prompt": ""}] * config.tasks_per_step * episodes)  # one step
    rewarded = {"reward_funcs": _recorded_reward, "rollout_func": rollouts}
    match config.method:
        case "grpo":
            trainer = GRPOTrainer(**rewarded, **common)
        case "dgpo":
            from agentdistill.training.distillation_guided import DistillationGuidedTrainer

            trainer = DistillationGuidedTrainer(teacher_weight=config.teacher_weight, **rewarded, **common)
        case "distill":
            from agentdistill.training.on_policy_distillation import OnPolicyTrainer

            trainer = OnPolicyTrainer(rollouts=rollouts, **common)
    report(trainer, output)
    if progress:
        trainer.add_callback(
            show_progress(f"improve {output.name}", "loss" if config.method == "distill" else "reward")
        )
    last = last_checkpoint(output)
    trainer.train(resume_from_checkpoint=last)
    saved = save_student(trainer.model, model, tokenizer, output, config.training)
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    result = {**history(trainer.state), "rewards": rewards, "resumed_from": last}
    write_improved_card(saved, output.name, run, result)
    write_record(output, run, result)
    shutil.rmtree(checkpoints(output), ignore_errors=True)


def tasks_of_step(tasks: Sequence[Start], step: int, config: ImproveConfig) -> list[Start]:
    """The tasks of a step, counted from 1. All tasks come once, in random order, before any comes again."""
    first = (step - 1) * config.tasks_per_step
    chosen = []
    for place in range(first, first + config.tasks_per_step):
        epoch, index = divmod(place, len(tasks))
        chosen.append(random.Random(f"{config.seed}/{epoch}").sample(tasks, len(tasks))[index])
    return chosen


@contextmanager
def _decoding(model: Any) -> Iterator[None]:
    """Use a model that is being trained for decoding, in its own precision: accelerate's ``forward`` would compute one
    part of it in bfloat16."""
    autocasting = model.__dict__.pop("forward", None)
    model.eval()
    try:
        yield
    finally:
        model.train()
        if autocasting is not None:
            model.forward = autocasting


def reward(trajectory: Trajectory, parse_failure_penalty: float = 0.0) -> float | None:
    """The reward of an episode: its grade, less the penalties. None if the grader could not decide, or the task has no
    answer."""
    if trajectory.reference is None or is_undecided(trajectory):
        return None
    own = trajectory.steps[steps_given(trajectory) :]
    unusable = sum(isinstance(step.candidates[step.winner].action, ParseFailure) for step in own)
    return (trajectory.score or 0.0) - parse_failure_penalty * unusable


def _recorded_reward(
    prompts: list[str], completions: list[str], reward: list[float | None], **_: Any
) -> list[float | None]:
    return reward


def as_sampled(trajectory: Trajectory, max_length: int) -> Sampled:
    """An episode as one sequence, with exactly the token ids that the student read and sampled. Steps that it was given
    are part of the prompt.

    The sequence ends before the first turn that does not fit into ``max_length`` tokens, or whose prompt does not begin
    with the ids before it, because the chat template drops earlier thinking.
    """
    own = trajectory.steps[steps_given(trajectory) :]
    prompt = list(own[0].prompt_token_ids or ())
    ids, mask = list(prompt), [0] * len(prompt)
    for step in own:
        given, written = step.prompt_token_ids or [], step.candidates[step.winner].token_ids or []
        if given[: len(ids)] != ids or len(given) + len(written) > max_length:
            break
        mask += [0] * (len(given) - len(ids)) + [1] * len(written)
        ids = [*given, *written]
    if len(ids) == len(prompt):  # nothing to learn, and TRL needs a completion
        return Sampled(prompt[: max_length - 1], prompt[max_length - 1 :][:1] or prompt[-1:], [0])
    return Sampled(prompt, ids[len(prompt) :], mask[len(prompt) :])
