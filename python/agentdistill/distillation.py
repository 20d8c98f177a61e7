"""IDEA 1 of the paper, agent distillation: teach a student to act, not only to reason.

:func:`generate`: the teacher solves the training tasks as an agent, reasoning, acting, observing. :func:`select`: the
correct trajectories are kept. :func:`to_examples`: they become token ids for the student, with a loss mask over what
an agent writes itself: its turns, to the end-of-turn token, never the observations. training.py fine-tunes on these.

Not here: other choices of what to keep (by the student's likelihood, by use of a search), and training itself.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict

from agentdistill._core import ParseFailure, Trajectory, TrajectoryWriter, read_trajectories
from agentdistill.chain_of_thought import chain_sampling
from agentdistill.engine import rollout
from agentdistill.first_thought_prefix import first_thought_prefix, recorded_prefixes
from agentdistill.model import Message, Model
from agentdistill.player import RolloutConfig
from agentdistill.prompt import assistant_turn, load_prompt, opening
from agentdistill.task import Task
from agentdistill.tool import Tool

# ---- generate ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GenerateConfig(RolloutConfig):
    """How the teacher works: greedy, one candidate, with a long prompt that shows the cycle by examples."""

    first_thought_prefix: bool = False
    """Begin each first Thought with the first thought of the teacher's own chain of thought (IDEA 2; costs one more
    completion for each task; paper: with and without)."""
    chain_prompt: str = "teacher_cot"
    """System prompt of that chain of thought: one of ours by name, a file, or a text."""
    chains: str | None = None
    """Take first thoughts from this file of the same teacher's chains of thought (what ``kind`` "cot" made) and ask for
    those only that it does not have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        load_prompt(self.chain_prompt)
        if self.first_thought_prefix and self.kind == "cot":
            raise ValueError('a first-thought prefix begins the Thought of an agent: not with kind "cot"')
        if self.chains and not self.first_thought_prefix:
            raise ValueError("chains are where a first-thought prefix is taken from, and there is to be none")

    @property
    def default_prompt(self) -> str:
        """That of a teacher."""
        return f"teacher_{self.kind}"


def generate(
    tasks: Sequence[Task],
    model: Model,
    tools: Sequence[Tool] = (),
    config: GenerateConfig | None = None,
    *,
    output: str | Path | None = None,
    progress: bool = True,
    metrics: str | Path | None = None,
) -> list[Trajectory]:
    """Let the teacher solve ``tasks``; return all its trajectories, graded, good and bad. Resumes and raises as
    ``rollout``, and has its ``metrics``."""
    config = config or GenerateConfig()
    chain_prompt = load_prompt(config.chain_prompt)
    recorded = recorded_prefixes(config.chains, model.name) if config.chains else {}

    async def first_thought(task: Task) -> str:
        if (known := recorded.get(task.question)) is not None:
            return known
        return await first_thought_prefix(opening(task.question, chain_prompt), model, chain_sampling(config))

    ask = first_thought if config.first_thought_prefix else None
    return rollout(
        tasks,
        model,
        tools,
        config,
        output=output,
        first_thought=ask,
        progress=progress,
        metrics=metrics,
        title="generate",
    )


# ---- select --------------------------------------------------------------------------------------


class Selection(NamedTuple):
    """What is kept for training, and why the rest is not."""

    kept: list[Trajectory]
    dropped: dict[str, int]
    """Reason -> trajectories dropped for it, most first."""

    def __str__(self) -> str:
        total = len(self.kept) + sum(self.dropped.values())
        reasons = ", ".join(f"{reason} {n}" for reason, n in self.dropped.items())
        return f"{len(self.kept)} of {total} trajectories kept" + (f"; dropped: {reasons}" if reasons else "")


def select(trajectories: Sequence[Trajectory] | str | Path, output: str | Path | None = None) -> Selection:
    """Keep what the paper keeps, in the order of their tasks' ids: correct, every completion parsed, answered within
    the steps.

    A file has its trajectories in the order in which they ended, which no two runs share; in the order of their ids,
    the same trajectories make the same student. Steps whose code raised an error are kept on purpose: what the teacher
    did next shows how to recover. ``output``, if given, gets the kept trajectories, and is replaced whole. Raises
    TrajectoryError for a file that cannot be read, OSError for one that cannot be written.
    """
    if isinstance(trajectories, str | Path):
        trajectories = read_trajectories(trajectories)
    reasons = [_why_dropped(trajectory) for trajectory in trajectories]
    kept = [trajectory for trajectory, reason in zip(trajectories, reasons, strict=True) if reason is None]
    kept.sort(key=lambda trajectory: trajectory.task_id)
    dropped = dict(Counter(reason for reason in reasons if reason is not None).most_common())
    if output is not None:
        _write(kept, dropped, Path(output))
    return Selection(kept, dropped)


def _why_dropped(trajectory: Trajectory) -> str | None:
    """The first of the paper's conditions that does not hold; None for a trajectory to learn from."""
    if trajectory.outcome != "final_answer":
        return trajectory.outcome
    if any(isinstance(step.candidates[step.winner].action, ParseFailure) for step in trajectory.steps):
        return "parse_failure"
    if trajectory.score is None:
        return "not_graded"
    return None if trajectory.score >= 1 else "wrong_answer"


def _write(kept: list[Trajectory], dropped: dict[str, int], output: Path) -> None:
    new = output.with_name(f".{output.name}.new")
    new.unlink(missing_ok=True)
    with TrajectoryWriter(new, json.dumps({"select": "correct, parsed, in time", "dropped": dropped})) as writer:
        writer.append(kept)
    os.replace(new, output)


# ---- training examples ---------------------------------------------------------------------------


class Example(TypedDict):
    """One training example, as TRL's SFTTrainer takes it ready-made."""

    input_ids: list[int]
    completion_mask: list[int]
    """1 where the loss counts: the assistant's words and its end of turn; 0 for prompt and observations."""


class Examples(NamedTuple):
    """Training examples, and what became of the trajectories that are not, or not wholly, among them."""

    examples: list[Example]
    cut: int
    """Trajectories that were too long, and end after the last step that fits."""
    dropped: dict[str, int]
    """Reason -> trajectories: "too_long" (not even the first step fits), "not_faithful" (the tokenizer cannot say the
    text)."""


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any: ...
    def __call__(self, text: str, **options: Any) -> Any: ...
    def decode(self, token_ids: list[int], **options: Any) -> Any: ...


def to_examples(
    trajectories: Sequence[Trajectory], tokenizer: Tokenizer, *, prompt: str | None = None, max_length: int = 10_240
) -> Examples:
    """Render trajectories for a student, under its own short prompt and chat template, as it will see them in a
    rollout.

    Each turn is what the template makes of it: first the prompt of that step, exactly as a server would build it,
    then the assistant's text and end of turn, encoded apart, as they are when generated. A template that rewrites
    earlier turns (drops their thinking) gives one example a step. ``prompt`` is as in ``AgentConfig``; ``max_length``
    is in tokens (paper: 10,240).

    Raises ValueError for a tokenizer without a chat template, or one whose template does not end a turn.
    """
    texts = {kind: load_prompt(f"student_{kind}" if prompt is None else prompt) for kind in ("agent", "cot")}
    examples: list[Example] = []
    cut, dropped = 0, Counter[str]()
    for trajectory in trajectories:
        turns = list(_turns(trajectory, tokenizer, texts[trajectory.kind]))
        made, used = _join(turns, tokenizer, max_length)
        if not made:
            dropped["too_long"] += 1
        elif not all(_is_faithful(example, text, tokenizer) for example, text in made):
            dropped["not_faithful"] += 1
        else:
            cut += used < len(turns)
            examples += [example for example, _ in made]
    return Examples(examples, cut, dict(dropped.most_common()))


class _Turn(NamedTuple):
    prompt: str
    """The conversation up to this turn, as the model is given it."""
    completion: str
    """What the model should write: its text and the end of its turn."""


def _turns(trajectory: Trajectory, tokenizer: Tokenizer, prompt: str) -> Iterator[_Turn]:
    settings = trajectory.sampling
    messages = opening(
        trajectory.question, prompt, tools=settings.get("tools", ""), max_steps=settings.get("max_steps", 0)
    )
    for step in trajectory.steps:
        text = assistant_turn(step.candidates[step.winner])
        given = _render(messages, tokenizer, add_generation_prompt=True)
        messages.append(Message("assistant", text))
        whole = _render(messages, tokenizer, add_generation_prompt=False).rstrip()
        completion = whole.removeprefix(given)
        if completion == whole or text not in completion:
            raise ValueError(
                "the chat template shows an assistant's turn otherwise than it asks for one: it cannot be learnt"
            )
        if completion.endswith(text):
            raise ValueError(
                "the chat template does not mark the end of an assistant's turn: a student would never stop"
            )
        yield _Turn(given, completion)
        messages.append(Message("user", step.message))


def _render(messages: list[Message], tokenizer: Tokenizer, *, add_generation_prompt: bool) -> str:
    conversation = [message._asdict() for message in messages]
    try:
        return str(
            tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=add_generation_prompt)
        )
    except Exception as error:  # templates are programs, and raise what they like
        raise ValueError(f"the chat template refuses the conversation: {error}") from error


def _join(turns: list[_Turn], tokenizer: Tokenizer, max_length: int) -> tuple[list[tuple[Example, str]], int]:
    """The turns as one example, or several where the template rewrites what was; each with its text. And how many
    turns fit."""
    made: list[tuple[Example, str]] = []
    for used, turn in enumerate(turns):
        goes_on = bool(made) and turn.prompt.startswith(made[-1][1])
        before, text = made[-1] if goes_on else (Example(input_ids=[], completion_mask=[]), "")
        given = _encode(turn.prompt[len(text) :], tokenizer)
        written = _encode(turn.completion, tokenizer)
        ids = before["input_ids"] + given + written
        if len(ids) > max_length:
            return made, used
        mask = before["completion_mask"] + [0] * len(given) + [1] * len(written)
        made[len(made) - goes_on :] = [(Example(input_ids=ids, completion_mask=mask), turn.prompt + turn.completion)]
    return made, len(turns)


def _is_faithful(example: Example, text: str, tokenizer: Tokenizer) -> bool:
    """Whether the ids are those of the text encoded at once, and say the text: so no turn has drifted at its seams."""
    ids = example["input_ids"]
    decoded = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return ids == _encode(text, tokenizer) and decoded == text


def _encode(text: str, tokenizer: Tokenizer) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
