"""The agent loop of one episode: think, act, observe, until the answer.

The loop gets a question, a model and a function that takes a step. It does not know whether the episode becomes
training data or an evaluation. Not here: many episodes at once (``engine.py``), failures of the model or the sandbox
(raised to the caller), and grading.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from typing import TYPE_CHECKING

from agentdistill._core import Action, Candidate, ParseFailure, State, Step, StepResult
from agentdistill.action_format import ActionFormat
from agentdistill.answers import extract_answer
from agentdistill.models.model import Generation, Message, Model, Sampling, Show, StreamingModel
from agentdistill.models.thoughts import between_tags
from agentdistill.rollouts.prompt import is_cut, load_prompt
from agentdistill.rollouts.wording import WORDINGS, Compat, Wording
from agentdistill.self_consistent_action import SelfConsistentAction

if TYPE_CHECKING:
    from agentdistill._core import _Outcome as Outcome

STEP_TOKENS = 1024
"""Default limit of new tokens per step (paper: 1,024)."""

PARSE_FAILURES = 3
"""An episode ends after this many unusable completions in a row. The model is told what was wrong with each."""

SAME_FAILURES = 3
"""An episode ends when the same code has failed this many times. After the second time, the model is told."""


@dataclass(frozen=True)
class AgentConfig:
    """Settings of one episode."""

    prompt: str | None = None
    """System prompt: the name of a built-in prompt, a file, or a text; "" for none.
    By default the built-in prompt for this command."""
    action_format: ActionFormat = "code"
    """How the model writes its actions. "code" is the paper's Thought and Code.
    The others are for models that were trained elsewhere (see docs/evaluation.md)."""
    compat: Compat | None = None
    """"reference" uses the conversation form of the paper's code: tools, prompts, stop strings, output limits and vote.
    Use it for that code's students and logs, in training and evaluation alike."""
    max_steps: int = 5
    """Maximum number of steps per episode (paper: 5)."""
    candidates: int = 1
    """Self-consistent action generation: number of candidates sampled per step (paper: 8; 1 turns it off).
    With kind "cot": number of chains of thought. Also ``--sag``."""
    adaptive: bool = False
    """Stop sampling candidates once the vote is decided: the same winner from fewer tokens, but slightly slower."""
    temperature: float | None = None
    """Sampling temperature. By default 0 (greedy) for one candidate and 0.4 for several, as in the paper."""
    top_p: float = 0.8
    """Nucleus sampling: total probability of the tokens sampled from (paper: 0.8). No effect on greedy decoding."""
    max_tokens: int | None = None
    """Maximum number of new tokens per completion.
    Default, as in the paper's code: 1,024 for an agent's step and 4,096 for a chain of thought."""
    thinking_tokens: int | None = None
    """Maximum number of thinking tokens of a reasoning model; ``max_tokens`` then limits only the reply.
    By default both share ``max_tokens``. Servers get the sum as one limit."""
    last_word: bool = True
    """If the steps are used up without an answer, ask once more, for the answer alone, and grade it (paper's code).
    The recorded outcome stays "out_of_steps"."""
    keep_states: bool = False
    """Record the interpreter's State after each step.
    ``correct`` needs it, and ``state_before`` in Python, to continue an episode from any step."""

    def __post_init__(self) -> None:
        """Raise ValueError for values that are out of range or do not go together."""
        for name in ("max_steps", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")
        if self.candidates > 1 and self.temperature == 0:
            raise ValueError("candidates sampled at temperature 0 are identical: give a temperature, or 1 candidate")
        if self.compat and self.action_format != "code":
            raise ValueError(f'the paper\'s code has only action_format "code": no compat with {self.action_format!r}')
        _ = self.sampling, self.system_prompt

    @property
    def wording(self) -> Wording:
        """The form of the conversation."""
        return WORDINGS[self.compat]

    @property
    def default_prompt(self) -> str:
        """Name of the default prompt."""
        return self.wording.default_prompt("student", "agent", self.action_format)

    @cached_property
    def system_prompt(self) -> str:
        """Text of the prompt, with placeholders. Raises ValueError if there is no such prompt."""
        return load_prompt(self.default_prompt if self.prompt is None else self.prompt)

    @property
    def token_limit(self) -> int:
        """Maximum number of new tokens per completion, given or default."""
        return STEP_TOKENS if self.max_tokens is None else self.max_tokens

    @cached_property
    def sampling(self) -> Sampling:
        """Sampling settings of a step."""
        several = self.candidates > 1
        temperature = self.temperature if self.temperature is not None else (0.4 if several else 0.0)
        top_p = self.top_p if temperature else 1.0
        return Sampling(
            temperature=temperature,
            top_p=top_p,
            max_tokens=self.token_limit,
            thinking_tokens=self.thinking_tokens,
            stop=self.wording.stop(self.action_format),
        )


@dataclass(frozen=True)
class Episode:
    """An episode: a trajectory without the task's own fields and the grade."""

    messages: list[Message]
    """The messages before the first step."""
    steps: list[Step]
    outcome: "Outcome | None"
    """None while the episode is running."""
    answer: str | None
    prompt_tokens: int
    completion_tokens: int
    compat: Compat | None = None
    """The form of the conversation."""

    @property
    def conversation(self) -> list[Message]:
        """The conversation so far: the opening messages, then each step's turn and the message after it."""
        messages = list(self.messages)
        for step in self.steps:
            messages.append(Message("assistant", WORDINGS[self.compat].assistant_turn(step.candidates[step.winner])))
            if step.message:  # empty after the last step
                messages.append(Message("user", step.message))
        return messages


def begin(question: str, config: AgentConfig, tools: str = "") -> Episode:
    """An episode before its first step. ``tools``: the tools' signatures, for the prompt."""
    messages = config.wording.opening(question, config.system_prompt, tools=tools, max_steps=config.max_steps)
    return Episode(messages, [], None, None, 0, 0, config.compat)


async def run_episode(
    question: str,
    model: Model,
    action: SelfConsistentAction,
    config: AgentConfig,
    *,
    tools: str = "",
    prefix: str = "",
    half_done: tuple[Episode, State] | None = None,
    after_step: Callable[[Episode, State], Awaitable[None]] | None = None,
    show: Show | None = None,
    seed: int = 0,
) -> Episode:
    """Run one episode of ``model`` on ``question`` until it ends. ``tools``: the tools' signatures, for the prompt;
    ``prefix``: the beginning of the first turn.

    ``after_step`` is called with the episode and its State after each step. ``half_done`` resumes an episode from such
    a pair. ``show`` is called with what the model writes (streamed, if the model can stream) and with the messages it
    gets, each followed by a blank line. ``seed``: the episode's seed, from which each request derives its own. Nothing
    that the model writes raises an exception. Raises ModelError and SandboxError.
    """
    episode, state = half_done or (begin(question, config, tools), action.initial)
    while episode.outcome is None:
        begun = "" if episode.steps else prefix
        episode, state = await _take_step(question, episode, state, model, action, config, begun, show, seed)
        if after_step:
            await after_step(episode, state)
    if config.last_word and episode.outcome != "final_answer":
        episode, state = await _take_step(question, episode, state, model, action, config, "", show, seed)
        if after_step:
            await after_step(episode, state)
    return episode


async def _take_step(
    question: str,
    episode: Episode,
    state: State,
    model: Model,
    action: SelfConsistentAction,
    config: AgentConfig,
    prefix: str,
    show: Show | None,
    seed: int,
) -> tuple[Episode, State]:
    """Take one step: sample candidates, run them and vote. Return the episode and its State after it.

    If the episode has already ended, ask for its last word instead: one completion, whose answer becomes the episode's.
    """
    start, is_last_word = time.perf_counter(), episode.outcome is not None
    n, messages, sampling, wording = config.candidates, episode.conversation, config.sampling, config.wording
    if is_last_word:
        n, messages = 1, wording.asked_last(messages)
        sampling = sampling if wording.stops_last_word else replace(sampling, stop=())
    show_now = show if n == 1 else None  # with several candidates, the winner is known only after the vote
    requests = count()

    def next_sampling() -> Sampling:
        return sampling.seeded(seed, len(episode.steps), next(requests))

    keeps_thinking = config.action_format != "code"  # turns of other formats include the thinking
    sample = partial(_sample, model, messages, next_sampling, prefix, show_now, keeps_thinking)
    generation, result = await action.act(state, sample, n, prefix=prefix, adaptive=config.adaptive and n > 1)
    candidates = _candidates(generation, result, prefix)
    chosen, before = candidates[result.winner], [step.candidates[step.winner] for step in episode.steps]
    cut = is_cut(chosen)
    after = state if cut else result.state  # a cut action does not count
    outcome, answer, message = episode.outcome, None, ""
    if is_last_word:
        answer = _last_word(chosen, cut)
    else:
        repeats = 0 if cut else _same_failures(chosen, before)
        outcome = _outcome(chosen, before, repeats, config)
        answer = _answer(chosen) if outcome == "final_answer" else None
        if outcome is None or (config.last_word and answer is None):
            message = wording.observation_message(
                chosen,
                number=len(before) + 1,
                repeated=repeats > 0,
                cut_at=config.token_limit if cut else None,
                action_format=config.action_format,
            )
            message = message if outcome is None else wording.last_word(message, question)
    step = Step(
        candidates,
        winner=result.winner,
        votes=result.vote.counts,
        prompt_token_ids=generation.prompt_token_ids,
        message=message,
        state=await asyncio.to_thread(after.to_bytes, state) if config.keep_states else None,
        seconds=time.perf_counter() - start,
        model_seconds=generation.seconds,
        cached_tokens=generation.cached_tokens,
    )
    if show and not show_now:
        show(paragraph(between_tags(chosen.reasoning) + chosen.text))
    if show and message:
        show(paragraph(message))
    episode = replace(
        episode,
        steps=[*episode.steps, step],
        outcome=outcome,
        answer=answer,
        prompt_tokens=episode.prompt_tokens + generation.prompt_tokens,
        completion_tokens=episode.completion_tokens + generation.completion_tokens,
    )
    return episode, after


async def _sample(
    model: Model,
    messages: list[Message],
    sampling: Callable[[], Sampling],
    prefix: str,
    show: Show | None,
    keeps_thinking: bool,
    n: int,
) -> Generation:
    """Sample ``n`` candidates. ``sampling`` returns the settings, with a new seed for each request."""
    start = time.perf_counter()
    if show and isinstance(model, StreamingModel):
        if prefix:
            show(prefix)
        generation = await model.stream(messages, sampling(), show, prefix=prefix)
        show(paragraph(""))
    else:
        generation = await model.generate(messages, sampling(), n=n, prefix=prefix)
        if show:
            first = generation.completions[0]
            show(paragraph(first.thinking + prefix + first.text))
    completions = [c.joined() for c in generation.completions] if keeps_thinking else generation.completions
    return replace(generation, completions=completions, seconds=time.perf_counter() - start)


def paragraph(text: str) -> str:
    """The text, followed by a blank line."""
    return f"{text.strip()}\n\n"


def _candidates(generation: Generation, result: StepResult, begun: str) -> list[Candidate]:
    return [
        Candidate(
            begun + completion.text,
            prefix=begun,
            reasoning=completion.reasoning,
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            finish_reason=completion.finish_reason,
            action=action,
            observation=observation,
        )
        for completion, action, observation in zip(
            generation.completions, result.actions, result.observations, strict=True
        )
    ]


def _outcome(chosen: Candidate, before: list[Candidate], repeats: int, config: AgentConfig) -> "Outcome | None":
    """How the episode ends with this step; None if it continues."""
    if _is_unusable(chosen):
        last_ones = [*before, chosen][-PARSE_FAILURES:]
        given_up = config.wording.gives_up and len(last_ones) == PARSE_FAILURES and all(map(_is_unusable, last_ones))
        if given_up or len(before) + 1 == config.max_steps:
            return "cut_completion" if is_cut(chosen) else "parse_failure"
        return None
    if _answer(chosen) is not None:
        return "final_answer"
    given_up = config.wording.gives_up and repeats + 1 >= SAME_FAILURES
    return "out_of_steps" if given_up or len(before) + 1 == config.max_steps else None


def _is_unusable(chosen: Candidate) -> bool:
    """Whether the completion is no complete action."""
    return is_cut(chosen) or isinstance(chosen.action, ParseFailure)


def _answer(chosen: Candidate) -> str | None:
    """The step's final answer, from final_answer(...) in its code or from plain text."""
    return chosen.observation.final_answer if chosen.observation else None


def _last_word(chosen: Candidate, cut: bool) -> str | None:
    """The answer in a last word: of its action, or marked as the answer; else the whole text, if it is no action."""
    if answer := None if cut else _answer(chosen):
        return answer
    plain = isinstance(chosen.action, ParseFailure) and not cut
    return extract_answer(chosen.text) or (chosen.text.strip() or None if plain else None)


def _same_failures(chosen: Candidate, before: list[Candidate]) -> int:
    """How often the same code has failed before, if it failed now."""
    code = _failed_code(chosen)
    return sum(_failed_code(candidate) == code for candidate in before) if code is not None else 0


def _failed_code(candidate: Candidate) -> str | None:
    failed = candidate.observation is not None and candidate.observation.kind not in ("value", "final_answer")
    return candidate.action.code if failed and isinstance(candidate.action, Action) else None
