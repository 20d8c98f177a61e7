"""Convert trajectories into training examples: token ids as the student would see them in a rollout, with a loss mask.

The student learns what the agent writes: its turns, up to and including the end of the turn. It learns neither prompts
and observations nor the steps that an episode was given (correction.py). The border between a turn's thought and its
action is exact to the token. ``_ids`` alone decides where a turn's ids come from: they are the sampled ids if this
student could have sampled them, else the encoded text.

Not here: which trajectories are kept (distillation.py), and the loss (step.py).
"""

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired, Protocol, TypedDict

from agentdistill._core import ParseFailure, Trajectory, parse_action
from agentdistill.action_format import ActionFormat
from agentdistill.models.control_tokens import MARK, ControlTokens, unmarked
from agentdistill.models.loading import split_options, template_options
from agentdistill.models.model import Message, ModelError
from agentdistill.models.rendering import Renderer, require_vocabulary
from agentdistill.models.thoughts import closing, thinking, without_thinking
from agentdistill.rollouts.wording import WORDINGS, Compat, ConversationForm
from agentdistill.training.forms import form_of, is_last_word, message_after
from agentdistill.trajectories import steps_given

SpanKind = Literal["thought", "action", "answer"]

UNDATED = "2026-01-01"
"""The date for a template that asks for one, if a trajectory does not record its own (as in other programs' logs)."""


class Span(NamedTuple):
    """A part of what the student learns: the tokens from ``start`` up to, but not including, ``end``."""

    kind: SpanKind
    """"thought": a turn up to its code. "action": the code with its label and fence, and the end of the turn. "answer":
    the same where it gives the final answer. A token across the border belongs to the thought."""
    start: int
    end: int


class Example(TypedDict):
    """One training example."""

    input_ids: list[int]
    completion_mask: list[int]
    """1 where the loss counts (the assistant's text and its end of turn), 0 for prompts and observations."""
    spans: NotRequired[list[Span]]
    """The kinds of the tokens with mask 1, in order. Needed only for weights by span and for a teacher's log
    probabilities."""
    question: NotRequired[str]
    """The question of the example's trajectory. Examples with the same question are held out together."""
    target: NotRequired[list[float]]
    """The teacher's log probability of each token, as the target of training (likelihood.with_teacher_targets)."""
    factors: NotRequired[list[float]]
    """Weight of each token's distance to its target."""


class Examples(NamedTuple):
    """Training examples, and the number of trajectories that were cut or dropped."""

    examples: list[Example]
    cut: int
    """Trajectories that were too long, and end after the last step that fits."""
    dropped: dict[str, int]
    """Reason -> trajectories: "too_long" (the first step to learn does not fit), "not_faithful" (the tokenizer cannot
    represent the text)."""
    recorded: int
    """Turns that use the sampled ids."""

    def __str__(self) -> str:
        tokens = sum(len(example["input_ids"]) for example in self.examples)
        taught = sum(sum(example["completion_mask"]) for example in self.examples)
        turns = sum(span.kind != "thought" for example in self.examples for span in example["spans"])
        parts = [f"{len(self.examples)} examples, {tokens:,} tokens, {taught:,} of them learnt"]
        parts += [f"{self.recorded} of {turns} turns with their sampled token ids, the others encoded from their text"]
        parts += [f"{self.cut} trajectories cut after the last step that fits"] if self.cut else []
        parts += [f"left out: {reason} {n}" for reason, n in self.dropped.items()]
        return "; ".join(parts)


class Tokenizer(Protocol):
    """The methods of a transformers tokenizer that are used here."""

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any: ...
    def __call__(self, text: str, **options: Any) -> Any: ...
    def decode(self, token_ids: list[int], **options: Any) -> Any: ...


def student_named(model: str) -> tuple[str, dict[str, Any]]:
    """Split a student's name, such as ``PATH,enable_thinking=false``, into its folder or hub id and the arguments of
    its chat template.

    Raises ValueError for other options.
    """
    name, options = (model, {}) if Path(model).exists() else split_options(model)
    template = template_options(options)
    if options:
        raise ValueError(f"{', '.join(options)}: not options of a student; settings of training are flags")
    return name, template


def load_tokenizer(model: str, template: Mapping[str, Any] | None = None) -> Any:
    """Load a model's tokenizer, by folder or hub id. Raises ModelError if it is not there.

    ``template``: arguments of the chat template. They are written into the template itself, so that a student saved
    with this tokenizer is prompted wherever it runs as it was in training.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the tokenizer of {model}: {error}") from error
    require_vocabulary(tokenizer, model)
    for name, value in (template or {}).items():
        literal = "none" if value is None else json.dumps(value)
        tokenizer.chat_template = f"{{%- set {name} = {literal} -%}}{tokenizer.chat_template}"
    return tokenizer


def to_examples(
    trajectories: Sequence[Trajectory],
    tokenizer: Tokenizer,
    *,
    prompt: str | None = None,
    max_length: int = 10_240,
    compat: Compat | None = None,
    thoughts: bool = False,
) -> Examples:
    """Convert trajectories into the examples that a student learns from, with its own short prompt and chat template,
    as it will see them in a rollout.

    Each turn is rendered by the template: the prompt of the step, exactly as a server would build it, then, separately,
    the assistant's text and end of turn, as they are when generated. A turn starts a new example if its prompt does not
    begin with the ids of the turns before it, because the template drops their thinking, or because their sampled ids
    differ from the encoded text. ``prompt`` and ``compat`` are as in ``AgentConfig``; ``max_length`` is in tokens
    (paper: 10,240). With ``thoughts``, a reasoning model's thinking before a turn is learnt too; else the student
    learns to act without it.

    Raises ValueError for a tokenizer without a chat template, or one whose template does not end a turn.
    """
    examples: list[Example] = []
    cut, recorded, dropped = 0, 0, Counter[str]()
    renderer = Renderer(tokenizer)
    for trajectory in trajectories:
        form = form_of(trajectory, prompt, compat)
        turns = [_encoded(turn, tokenizer) for turn in _turns(trajectory, renderer, form, thoughts)]
        fitting = list(takewhile(lambda turn: len(turn.given) + len(turn.written) <= max_length, turns))
        if not any(turn.learnt for turn in fitting):
            dropped["too_long"] += 1
        elif not all(turn.faithful for turn in fitting):
            dropped["not_faithful"] += 1
        else:
            cut += len(fitting) < len(turns)
            recorded += sum(turn.sampled and turn.learnt for turn in fitting)
            examples += [Example({**example, "question": trajectory.question}) for example in _join(fitting)]
    return Examples(examples, cut, dict(dropped.most_common()), recorded)


def pieces(example: Example, tokenizer: Tokenizer) -> Iterator[tuple[str, SpanKind | None]]:
    """Split an example into pieces of text: what is learnt with the kind of its span, the rest with None."""
    ids, at = example["input_ids"], 0
    for kind, start, end in example["spans"]:
        yield _decode(ids[at:start], tokenizer), None
        yield _decode(ids[start:end], tokenizer), kind
        at = end
    yield _decode(ids[at:], tokenizer), None


# ---- turns ---------------------------------------------------------------------------------------


class _Turn(NamedTuple):
    prompt: str
    """The conversation before this turn, as the model receives it; control tokens are marked (control_tokens.py)."""
    completion: str
    """What the model should write: its text and the end of its turn, also marked."""
    acts_at: int
    """Characters of the completion before its action, not counting marks."""
    act: SpanKind
    learnt: bool
    """Whether the turn has a loss, or is only given."""
    recorded: list[int]
    """The ids of the prompt and the completion in the recorded rollout; empty if unknown."""


def _turns(trajectory: Trajectory, renderer: Renderer, form: ConversationForm, thoughts: bool) -> Iterator[_Turn]:
    settings, wording = trajectory.sampling, WORDINGS[form.compat]
    renderer.date = date.fromisoformat(settings.get("date") or UNDATED)
    # If passages were retrieved for the question, only the messages contain them.
    question = trajectory.messages[-1][1] if settings.get("passages") else trajectory.question
    steps = settings.get("max_steps", 0)
    messages = wording.opening(question, form.prompt, kind=trajectory.kind, tools=form.tools, max_steps=steps)
    for number, step in enumerate(trajectory.steps):
        chosen = step.candidates[step.winner]
        text = unmarked(wording.assistant_turn(chosen))
        asked_now = wording.asked_last(messages) if is_last_word(trajectory, number) else messages
        messages = [*asked_now, Message("assistant", text)]
        try:
            given = renderer.text(asked_now)
            shown = renderer.text(messages, ask=False).rstrip()
        except ModelError as error:
            raise ValueError(str(error)) from error
        before, end = _around(text, given, shown)
        if thoughts and chosen.reasoning:
            before = thinking(given, unmarked(chosen.reasoning))
        recorded = [*step.prompt_token_ids, *chosen.token_ids] if step.prompt_token_ids and chosen.token_ids else []
        answered = trajectory.kind == "cot" or (chosen.observation and chosen.observation.final_answer is not None)
        acts_at = len(unmarked(before)) + _thought_end(text, settings.get("action_format", "code"))
        learnt = number >= steps_given(trajectory)
        yield _Turn(given, before + text + end, acts_at, "answer" if answered else "action", learnt, recorded)
        messages.append(Message("user", message_after(trajectory, number, form.compat)))


def _thought_end(text: str, action_format: ActionFormat) -> int:
    """Offset of the end of the thought in an assistant's text: before the label and fence of the code, or before the
    tag of an answer."""
    parsed = parse_action(text, action_format)
    if isinstance(parsed, ParseFailure):
        return len(text)
    acts = min(start for kind, start, _ in parsed.spans if kind != "thought")
    return max((end for kind, _, end in parsed.spans if kind == "thought" and end <= acts), default=0)


def _around(text: str, given: str, shown: str) -> tuple[str, str]:
    """The text that a model has to write before and after the text of its turn, so that the turn is as the template
    shows it.

    ``given``: the conversation, ending in the prompt for the turn. ``shown``: the conversation, ending in the turn.
    Either may contain thinking that the other lacks, since templates drop it. Raises ValueError for a template that
    shows a turn in another way than it prompts for one, or does not end it.
    """
    prompt = without_thinking(given)
    if not shown.startswith(prompt) or text not in shown[len(prompt) :]:
        raise ValueError(
            "the chat template renders an assistant's turn in another way than it prompts for one: it cannot be learnt"
        )
    start = shown.rindex(text) if text else len(prompt)
    end = shown[start + len(text) :]
    if not end:
        raise ValueError("the chat template does not mark the end of an assistant's turn: a student would never stop")
    if shown.startswith(given):
        return shown[len(given) : start], end
    return closing(given), end


# ---- tokens --------------------------------------------------------------------------------------


class _EncodedTurn(NamedTuple):
    given: list[int]
    written: list[int]
    sampled: bool
    """Whether ``written`` begins with sampled ids."""
    faithful: bool
    """Whether the ids decode to the turn's prompt and completion."""
    thought: int
    """Tokens of ``written`` before the action."""
    act: SpanKind
    learnt: bool


def _encoded(turn: _Turn, tokenizer: Tokenizer) -> _EncodedTurn:
    given, written, sampled = _ids(turn, tokenizer)
    faithful = _decode(given, tokenizer) == unmarked(turn.prompt)
    faithful = faithful and _decode(given + written, tokenizer) == unmarked(turn.prompt + turn.completion)
    thought = bisect_left(range(len(written)), turn.acts_at, key=lambda n: len(_decode(written[:n], tokenizer)))
    return _EncodedTurn(given, written, sampled, faithful, thought, turn.act, turn.learnt)


def _ids(turn: _Turn, tokenizer: Tokenizer) -> tuple[list[int], list[int], bool]:
    """The ids of a turn's prompt, the ids of its completion, and whether the latter are the sampled ones.

    The sampled ids are used under two conditions: the model that sampled them had exactly the prompt ids that this
    student would have, and they decode to the beginning of the completion. That holds if the model shares the student's
    tokenizer, template and prompt (for example, if it is the student), and its text was stored unchanged. Sampled ids
    may differ from those of the encoded text: "fin" "al" for "final". The rest of the completion, such as the end of a
    turn that a stop string cut off, is encoded and appended. A prefix that the turn was given (a first-thought prefix)
    is learnt with it.
    """
    given = _encode(turn.prompt, tokenizer)
    if turn.recorded[: len(given)] == given:
        sampled = turn.recorded[len(given) :]
        text = _decode(sampled, tokenizer)
        if unmarked(turn.completion).startswith(text):
            return given, sampled + _encode(_after(turn.completion, len(text)), tokenizer), True
    return given, _encode(turn.completion, tokenizer), False


def _join(turns: Sequence[_EncodedTurn]) -> list[Example]:
    """Join the turns into one example, or into several where a prompt does not extend the turns before it."""
    made: list[Example] = []
    for turn in turns:
        if not made or turn.given[: len(made[-1]["input_ids"])] != made[-1]["input_ids"]:
            made.append(Example(input_ids=[], completion_mask=[], spans=[]))
        example, start, end = made[-1], len(turn.given), len(turn.given) + len(turn.written)
        acts = start + turn.thought
        example["completion_mask"] += [0] * (start - len(example["input_ids"])) + [int(turn.learnt)] * len(turn.written)
        example["input_ids"] = turn.given + turn.written
        spans = (Span("thought", start, acts), Span(turn.act, acts, end))
        example["spans"] += [span for span in spans if turn.learnt and span.start < span.end]
    return [example for example in made if example["spans"]]


def _after(marked: str, characters: int) -> str:
    """The rest of a marked text after the given number of characters, not counting marks."""
    at = 0
    for _ in range(characters):
        at += 2 if marked[at] == MARK else 1
    return marked[at:]


def _encode(text: str, tokenizer: Any) -> list[int]:
    """Encode a text in which only marked control tokens become control tokens."""
    return _control_tokens(tokenizer).encode(text)


@lru_cache(maxsize=4)
def _control_tokens(tokenizer: Any) -> ControlTokens:
    return ControlTokens(tokenizer)


def _decode(ids: list[int], tokenizer: Tokenizer) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
