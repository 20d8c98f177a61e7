"""Training examples: a trajectory as the token ids that a student would meet in a rollout of its own, and what of them
it learns.

It learns what an agent writes itself, its turns to their ends, never prompts and observations, nor the steps that an
episode was begun with (correction.py). Which part of a turn is
thought and which is the action is known to the token. Where a turn's ids come from is decided in one place, ``_ids``:
they are those that were drawn, if this student could have drawn them so, and else its text encoded once.

Not here: which trajectories are kept (distillation.py), and the loss (training.py).
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
from agentdistill.models.rendering import Renderer
from agentdistill.models.thoughts import closing, thinking, without_thinking
from agentdistill.rollouts.wording import WORDINGS, Compat, ConversationForm
from agentdistill.training.forms import form_of, is_last_word, message_after
from agentdistill.trajectories import steps_given

SpanKind = Literal["thought", "action", "answer"]

UNDATED = "2026-01-01"
"""The date for a template that asks for one, where a trajectory does not say when it was made (another program's)."""


class Span(NamedTuple):
    """A part of what the student learns: tokens ``start`` to ``end`` of its example, ``end`` not among them."""

    kind: SpanKind
    """"thought": a turn up to its code. "action": its code, with label and fence, and the end of the turn. "answer":
    the same where it gave the final answer. A token on the border is of the thought."""
    start: int
    end: int


class Example(TypedDict):
    """One training example."""

    input_ids: list[int]
    completion_mask: list[int]
    """1 where the loss counts: the assistant's words and its end of turn; 0 for prompt and observations."""
    spans: NotRequired[list[Span]]
    """What is what where the mask is 1, in order; only weights by span, and a teacher's judgement, need it."""
    question: NotRequired[str]
    """Of the trajectory that it is made of: examples of one question are held out together."""
    target: NotRequired[list[float]]
    """The log probability that a teacher gives each token, where it is to be approached (likelihood.judged)."""
    factors: NotRequired[list[float]]
    """How much that counts."""


class Examples(NamedTuple):
    """Training examples, and what became of the trajectories that are not, or not wholly, among them."""

    examples: list[Example]
    cut: int
    """Trajectories that were too long, and end after the last step that fits."""
    dropped: dict[str, int]
    """Reason -> trajectories: "too_long" (not even the first step to learn fits), "not_faithful" (the tokenizer cannot
    say the text)."""
    recorded: int
    """Turns that have the ids that were drawn for them."""

    def __str__(self) -> str:
        tokens = sum(len(example["input_ids"]) for example in self.examples)
        taught = sum(sum(example["completion_mask"]) for example in self.examples)
        turns = sum(span.kind != "thought" for example in self.examples for span in example["spans"])
        said = [f"{len(self.examples)} examples, {tokens:,} tokens, {taught:,} of them learnt"]
        said += [f"{self.recorded} of {turns} turns with the ids that were drawn, the others encoded from their text"]
        said += [f"{self.cut} trajectories cut after the last step that fits"] if self.cut else []
        said += [f"left out: {reason} {n}" for reason, n in self.dropped.items()]
        return "; ".join(said)


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any: ...
    def __call__(self, text: str, **options: Any) -> Any: ...
    def decode(self, token_ids: list[int], **options: Any) -> Any: ...


def student_named(model: str) -> tuple[str, dict[str, Any]]:
    """A student's folder or hub id, and what its name says for its chat template: ``PATH,enable_thinking=false``.

    Raises ValueError for other options.
    """
    name, options = (model, {}) if Path(model).exists() else split_options(model)
    template = template_options(options)
    if options:
        raise ValueError(f"{', '.join(options)}: these are no options of a student; settings of training are flags")
    return name, template


def load_tokenizer(model: str, template: Mapping[str, Any] | None = None) -> Any:
    """The tokenizer of a model, by its folder or hub id. Raises ModelError for one that is not there.

    ``template``: what its chat template is to be given. It is written into the template itself, so that a student that
    is saved with this tokenizer is asked as it was trained, wherever it runs.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the tokenizer of {model}: {error}") from error
    for name, value in (template or {}).items():
        said = "none" if value is None else json.dumps(value)
        tokenizer.chat_template = f"{{%- set {name} = {said} -%}}{tokenizer.chat_template}"
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
    """Make of trajectories what a student learns from, under its own short prompt and chat template, as it will see
    them in a rollout.

    Each turn is what the template makes of it: first the prompt of that step, exactly as a server would build it,
    then the assistant's text and end of turn, apart, as they are when generated. A turn whose prompt does not begin
    with the ids of the turns before it (the template drops their thinking, or they were drawn otherwise than they are
    encoded) begins an example of its own. ``prompt`` and ``compat`` are as in ``AgentConfig``; ``max_length`` is in
    tokens (paper: 10,240). ``thoughts``: what a reasoning model thought before a turn is learnt with it; else the
    student learns to act at once.

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
            recorded += sum(turn.drawn and turn.learnt for turn in fitting)
            examples += [Example({**example, "question": trajectory.question}) for example in _join(fitting)]
    return Examples(examples, cut, dict(dropped.most_common()), recorded)


def pieces(example: Example, tokenizer: Tokenizer) -> Iterator[tuple[str, SpanKind | None]]:
    """An example as text, piece by piece: what is learnt with the kind of its span, the rest with None."""
    ids, at = example["input_ids"], 0
    for kind, start, end in example["spans"]:
        yield _decode(ids[at:start], tokenizer), None
        yield _decode(ids[start:end], tokenizer), kind
        at = end
    yield _decode(ids[at:], tokenizer), None


# ---- turns ---------------------------------------------------------------------------------------


class _Turn(NamedTuple):
    prompt: str
    """The conversation up to this turn, as the model is given it; control tokens are marked (control_tokens.py)."""
    completion: str
    """What the model should write: its text and the end of its turn, marked too."""
    acts_at: int
    """Characters of the completion before its action, without marks."""
    act: SpanKind
    learnt: bool
    """Whether it is one to learn from, or only given."""
    recorded: list[int]
    """The ids that the turn's own model was given, and those that it drew; none if they are not known."""


def _turns(trajectory: Trajectory, renderer: Renderer, form: ConversationForm, thoughts: bool) -> Iterator[_Turn]:
    settings, wording = trajectory.sampling, WORDINGS[form.compat]
    renderer.date = date.fromisoformat(settings.get("date") or UNDATED)
    # Passages that were found for the question stand before it in the messages alone.
    asked = trajectory.messages[-1][1] if settings.get("passages") else trajectory.question
    steps = settings.get("max_steps", 0)
    messages = wording.opening(asked, form.prompt, kind=trajectory.kind, tools=form.tools, max_steps=steps)
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
    """Where in an assistant's text the thought is over: before the label and fence of the code, or the tag of an
    answer."""
    parsed = parse_action(text, action_format)
    if isinstance(parsed, ParseFailure):
        return len(text)
    acts = min(start for kind, start, _ in parsed.spans if kind != "thought")
    return max((end for kind, _, end in parsed.spans if kind == "thought" and end <= acts), default=0)


def _around(text: str, given: str, shown: str) -> tuple[str, str]:
    """What a model has to write before the text of its turn, and after it, to have the turn as the template shows it.

    ``given``: the conversation as it asks for the turn, ``shown``: as it has the turn in the end. Both may have
    thinking before the text that the other does not have, since templates drop it. Raises ValueError for a template
    that writes a turn otherwise than it asks for one, or does not end it.
    """
    asked = without_thinking(given)
    if not shown.startswith(asked) or text not in shown[len(asked) :]:
        raise ValueError(
            "the chat template shows an assistant's turn otherwise than it asks for one: it cannot be learnt"
        )
    start = shown.rindex(text) if text else len(asked)
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
    drawn: bool
    """Whether ``written`` are ids that were drawn."""
    faithful: bool
    """Whether the ids say the turn's text, its prompt and its completion each."""
    thought: int
    """Tokens of ``written`` before the action."""
    act: SpanKind
    learnt: bool


def _encoded(turn: _Turn, tokenizer: Tokenizer) -> _EncodedTurn:
    given, written, drawn = _ids(turn, tokenizer)
    faithful = _decode(given, tokenizer) == unmarked(turn.prompt)
    faithful = faithful and _decode(given + written, tokenizer) == unmarked(turn.prompt + turn.completion)
    thought = bisect_left(range(len(written)), turn.acts_at, key=lambda n: len(_decode(written[:n], tokenizer)))
    return _EncodedTurn(given, written, drawn, faithful, thought, turn.act, turn.learnt)


def _ids(turn: _Turn, tokenizer: Tokenizer) -> tuple[list[int], list[int], bool]:
    """The ids of a turn's prompt, those of its completion, and whether these are the ones that were drawn.

    They are when the model that drew them was given what this student would be given, id for id, and they say how the
    completion begins: the model has this student's tokenizer, template and prompt (it is the student itself, say), and
    what it wrote is kept as it was. Ids that are drawn need not be those of their text: "fin" "al" for "final". What
    they do not say (the end of a turn that a stop string cut off) is encoded and put behind. The beginning of a turn
    that was not drawn but given (a first-thought prefix) is learnt with it.
    """
    given = _encode(turn.prompt, tokenizer)
    if turn.recorded[: len(given)] == given:
        drawn = turn.recorded[len(given) :]
        said = _decode(drawn, tokenizer)
        if unmarked(turn.completion).startswith(said):
            return given, drawn + _encode(_after(turn.completion, len(said)), tokenizer), True
    return given, _encode(turn.completion, tokenizer), False


def _join(turns: Sequence[_EncodedTurn]) -> list[Example]:
    """The turns as one example, or several where a prompt does not go on from what was."""
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
    """A marked text without so many characters at its beginning, marks not counted."""
    at = 0
    for _ in range(characters):
        at += 2 if marked[at] == MARK else 1
    return marked[at:]


def _encode(text: str, tokenizer: Any) -> list[int]:
    """The ids of a text in which control tokens count only where they are marked."""
    return _control_tokens(tokenizer).encode(text)


@lru_cache(maxsize=4)
def _control_tokens(tokenizer: Any) -> ControlTokens:
    return ControlTokens(tokenizer)


def _decode(ids: list[int], tokenizer: Tokenizer) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
