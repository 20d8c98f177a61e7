"""What a model is: messages in, completions out, be it teacher or student, served or local, scripted or recorded.

:func:`load_model` turns a word of the command line into one. Each engine has its own module (``openai_model``,
``vllm_model``, ``transformers_model``), imported when first asked for; the two models that need no engine are here.

Not here: which prompt is given (``prompt.py``), and what a completion means (the core's ``parse_action``).
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import NamedTuple, Protocol, runtime_checkable

from agentdistill._core import AgentDistillError
from agentdistill.models.thoughts import reasoning, split_thinking
from agentdistill.well_formed import well_formed


class ModelError(AgentDistillError):
    """A model that cannot be loaded, reached, or made to answer; says which, and what to do."""


class Message(NamedTuple):
    """One turn of a conversation; equal to the plain pair ``(role, content)`` that a trajectory keeps."""

    role: str
    """"system", "user" or "assistant"."""
    content: str


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Greedy by default; the paper's rollout with N = 8 candidates is ``Sampling(0.4, 0.8)``."""

    temperature: float = 0.0
    """0 takes the likeliest token. Paper: 0.4 in rollouts of N candidates, 0 for the teacher."""
    top_p: float = 1.0
    """Draw from the smallest set of tokens with this much probability. Paper: 0.8 in rollouts."""
    max_tokens: int = 1024
    """Most new tokens of one completion. Paper: 1,024."""
    thinking_tokens: int | None = None
    """Limit for a reasoning model's thinking; ``max_tokens`` is then the limit of the reply. Thinking that reaches it
    is closed. Default: both share ``max_tokens``. Servers get the sum as one limit."""
    stop: tuple[str, ...] = ()
    """A completion ends before the first of these that it writes. Paper: the ends of an action (``<end_code>``)."""
    logprobs: bool = False
    """Also return the log probability of every token drawn. Paper: not needed."""
    seed: int | None = None
    """A request with the same seed draws the same completions, as far as the engine's arithmetic repeats itself."""

    def seeded(self, *parts: int | str) -> "Sampling":
        """With a seed made from ``parts``, which identify the request. Greedy sampling gets none."""
        if not self.temperature:
            return self
        digest = hashlib.sha256(repr(parts).encode()).digest()
        return replace(self, seed=int.from_bytes(digest[:4]) >> 1)  # some servers take 31 bits

    def __post_init__(self) -> None:
        """Raise ValueError for what no engine could do."""
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}: give 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: give more than 0 and at most 1")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}: give at least 1")
        if self.thinking_tokens is not None and self.thinking_tokens < 1:
            raise ValueError(f"thinking_tokens is {self.thinking_tokens}: give at least 1")
        if isinstance(self.stop, str) or "" in self.stop:
            raise ValueError(f"stop is {self.stop!r}: give a tuple of strings that are not empty")


NEUTRAL = {"repetition_penalty": 1.0, "top_k": -1, "min_p": 0.0}
"""Values that leave sampling unchanged. Servers get them, since they would use the model's generation_config.json
otherwise. A server that refuses one of them gets none."""


@dataclass(frozen=True)
class Completion:
    """One of the n continuations of a prompt."""

    text: str
    """What the model wrote: without the prefix it was given, without the stop string that ended it, and without its
    thinking."""
    token_ids: list[int] | None = None
    """The ids drawn, with those of the stop string and of the end of the turn; None when the server keeps them."""
    logprobs: list[float] | None = None
    """Natural logarithm of each drawn token's probability; None when not asked for, or not given."""
    finish_reason: str = "stop"
    """"stop" (end of turn or a stop string) or "length" (``max_tokens`` or a full context); a server may have more."""
    stop: str = ""
    """The stop string that ended it, while an engine works on it; "" afterwards."""
    thinking: str = ""
    """What a reasoning model wrote before ``text``, with the tags. ``token_ids`` include it."""

    @property
    def reasoning(self) -> str:
        """The thinking without its tags."""
        return reasoning(self.thinking)

    def with_thinking_split(self, *, opened: str | None = None) -> "Completion":
        """Move thinking from ``text`` to ``thinking``. ``opened``: the opening tag that the chat template wrote."""
        thinking, text = split_thinking((opened or "") + self.text)
        return replace(self, thinking=thinking, text=text) if thinking else self

    def joined(self) -> "Completion":
        """Move the thinking back into ``text``, as it was written."""
        return replace(self, thinking="", text=self.thinking + self.text)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", well_formed(self.text))


@dataclass(frozen=True)
class Generation:
    """The answer to one request: n completions of one prompt, and what they cost."""

    completions: list[Completion]
    prompt_token_ids: list[int] | None = None
    """The prompt exactly as the model read it, chat template and prefix included; None when the server keeps it."""
    prompt_tokens: int = 0
    """Tokens of the prompt, counted once for all n of a request."""
    completion_tokens: int = 0
    """Tokens of all completions together."""
    cached_tokens: int = 0
    """Tokens of the prompt that the engine had read before, and did not read again; 0 where it does not say."""
    seconds: float = 0.0
    """From request to answer, where it was measured."""

    def and_further(self, other: "Generation") -> "Generation":
        """This, with the completions of another request for the same prompt."""
        return Generation(
            self.completions + other.completions,
            self.prompt_token_ids,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.seconds + other.seconds,
        )


class Model(Protocol):
    """Anything that can go on with a conversation. Many ``generate`` calls may wait at once; engines batch them."""

    name: str
    """What a trajectory records as its model."""

    async def generate(
        self, messages: Sequence[Message], sampling: Sampling, *, n: int = 1, prefix: str = ""
    ) -> Generation:
        """Continue ``messages`` with ``n`` independent assistant turns that each begin with ``prefix``.

        Raises ModelError when that is not possible, ValueError for arguments that make no sense.
        """
        ...

    async def close(self) -> None:
        """Free what the model holds; it cannot be asked again."""
        ...


Show = Callable[[str], None]
"""Shows text, piece by piece, to whoever waits for it."""


@runtime_checkable
class StreamingModel(Protocol):
    """A model that can show what it writes while it writes."""

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, show: Show, *, prefix: str = ""
    ) -> Generation:
        """``generate`` with one completion, whose text is shown on the way; what failed and was tried again, too."""
        ...


@runtime_checkable
class DatedModel(Protocol):
    """A model whose chat template is rendered in this process."""

    date: date
    """The date for chat templates that print one. Default: today."""


class SampledModel(ABC):
    """What the models share whose tokens are drawn: n greedy completions are n times the same one, drawn once."""

    name: str

    async def generate(
        self, messages: Sequence[Message], sampling: Sampling, *, n: int = 1, prefix: str = ""
    ) -> Generation:
        if n < 1:
            raise ValueError(f"n is {n}: give at least 1")
        if sampling.temperature:
            return await self._draw(messages, sampling, n, prefix, None)
        generation = await self._draw(messages, sampling, 1, prefix, None)
        return replace(generation, completions=generation.completions * n)

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, show: Show, *, prefix: str = ""
    ) -> Generation:
        return await self._draw(messages, sampling, 1, prefix, show)

    @abstractmethod
    async def _draw(
        self, messages: Sequence[Message], sampling: Sampling, n: int, prefix: str, show: Show | None
    ) -> Generation:
        """``generate``, for an ``n`` that makes sense; ``show`` is given the text of one completion."""


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """``text`` up to the first stop string in it."""
    ends = [end for s in stop if (end := text.find(s)) >= 0]
    return text[: min(ends)] if ends else text
