"""The model interface: messages in, completions out. Teachers and students, served or local, all implement it.

Not here: the implementations (a module for each engine), selecting one by name (``loading.py``), prompts
(``prompt.py``), and parsing completions (the core's ``parse_action``).
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, NamedTuple, Protocol, runtime_checkable

from agentdistill._core import AgentDistillError
from agentdistill.models.thoughts import reasoning, split_thinking
from agentdistill.well_formed import well_formed


class ModelError(AgentDistillError):
    """A model cannot be loaded or reached, or does not answer. The message names the model and says what to do."""


class ServerRefusal(ModelError):
    """A server answered a request with an error, or not at all. ``status`` and ``body`` are for the program that sent
    it."""

    def __init__(self, status: int, message: str, body: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        error = {"message": message, "type": "server_error", "param": None, "code": None}
        self.body = body or {"error": error}


class Message(NamedTuple):
    """One turn of a conversation. It equals the plain tuple ``(role, content)`` that a trajectory stores."""

    role: str
    """"system", "user" or "assistant"."""
    content: str


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters. Greedy by default; the paper's rollout with N = 8 candidates uses ``Sampling(0.4, 0.8)``."""

    temperature: float = 0.0
    """Softmax temperature; 0 is greedy. Paper: 0.4 in rollouts with N candidates, 0 for the teacher."""
    top_p: float = 1.0
    """Nucleus sampling: sample from the smallest set of tokens with this much probability. Paper: 0.8 in rollouts."""
    max_tokens: int = 1024
    """Maximum number of new tokens in a completion. Paper: 1,024."""
    thinking_tokens: int | None = None
    """Token limit of a reasoning model's thinking; ``max_tokens`` then limits only the reply. Thinking that reaches the
    limit is closed. Default: thinking and reply share ``max_tokens``. Servers get the sum as a single limit."""
    stop: tuple[str, ...] = ()
    """Stop strings: a completion ends before the first one. Paper: the end of an action (``<end_code>``)."""
    logprobs: bool = False
    """Also return the log probability of every sampled token. Paper: not needed."""
    seed: int | None = None
    """Equal requests with equal seeds give equal completions, as far as the engine's arithmetic is deterministic."""

    def seeded(self, *parts: int | str) -> "Sampling":
        """Return a copy whose seed is derived from ``parts``, which identify the request. Greedy sampling gets no
        seed."""
        if not self.temperature:
            return self
        digest = hashlib.sha256(repr(parts).encode()).digest()
        return replace(self, seed=int.from_bytes(digest[:4]) >> 1)  # some servers accept only 31 bits

    def __post_init__(self) -> None:
        """Raise ValueError for values out of range."""
        if not 0 <= self.temperature < math.inf:
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
"""Values with no effect on sampling. They are sent to servers, which would otherwise use the values in the model's
generation_config.json. A server that refuses one of them is sent none."""


@dataclass(frozen=True)
class Completion:
    """One of the n continuations of a prompt."""

    text: str
    """The text that the model wrote, without the given prefix, the stop string that ended it, and the thinking."""
    token_ids: list[int] | None = None
    """The sampled ids, including those of the stop string and the end of turn. None if the server does not return
    them."""
    logprobs: list[float] | None = None
    """Natural log probability of each sampled token. None if not requested or not returned."""
    finish_reason: str = "stop"
    """"stop" (end of turn or stop string) or "length" (``max_tokens`` or full context); servers may return others."""
    stop: str = ""
    """The stop string that ended the completion. Used only inside an engine; "" in what ``generate`` returns."""
    thinking: str = ""
    """The thinking that a reasoning model wrote before ``text``, with its tags. ``token_ids`` include it."""

    @property
    def reasoning(self) -> str:
        """The thinking without its tags."""
        return reasoning(self.thinking)

    def with_thinking_split(self, *, opened: str | None = None) -> "Completion":
        """Move the thinking from ``text`` to ``thinking``. ``opened``: the opening tag, if the template wrote it."""
        thinking, text = split_thinking((opened or "") + self.text)
        return replace(self, thinking=thinking, text=text) if thinking else self

    def joined(self) -> "Completion":
        """Move the thinking back into ``text``, exactly as it was written."""
        return replace(self, thinking="", text=self.thinking + self.text)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", well_formed(self.text))


@dataclass(frozen=True)
class Generation:
    """The result of one request: n completions of one prompt, and their token counts."""

    completions: list[Completion]
    prompt_token_ids: list[int] | None = None
    """The prompt as the model read it, including chat template and prefix. None if the server does not return it."""
    prompt_tokens: int = 0
    """Tokens in the prompt, counted once for all n completions of a request."""
    completion_tokens: int = 0
    """Tokens in all completions together."""
    cached_tokens: int = 0
    """Tokens of the prompt that the engine took from its prefix cache; 0 if it does not report them."""
    seconds: float = 0.0
    """Seconds from request to result, if measured."""

    def merged_with(self, other: "Generation") -> "Generation":
        """Merge with another request's generation for the same prompt: append its completions, add its costs."""
        return Generation(
            self.completions + other.completions,
            self.prompt_token_ids,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.seconds + other.seconds,
        )


class Model(Protocol):
    """Anything that can continue a conversation. Many ``generate`` calls may be pending at once; engines batch them."""

    name: str
    """The model's name in trajectories."""

    async def generate(
        self, messages: Sequence[Message], sampling: Sampling, *, n: int = 1, prefix: str = ""
    ) -> Generation:
        """Continue ``messages`` with ``n`` independent assistant turns that each begin with ``prefix``.

        Raises ModelError if the model fails, ValueError for invalid arguments.
        """
        ...

    async def close(self) -> None:
        """Free the model's resources. It cannot be used afterwards."""
        ...


Show = Callable[[str], None]
"""Called with each new piece of text as it is generated."""


@runtime_checkable
class StreamingModel(Protocol):
    """A model that can stream its output."""

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, show: Show, *, prefix: str = ""
    ) -> Generation:
        """Like ``generate`` with one completion, but pass its text to ``show`` as it arrives.

        Text of failed attempts that were retried is shown too.
        """
        ...


@runtime_checkable
class ForwardingModel(Protocol):
    """A model on a server of OpenAI's protocol."""

    async def forward(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a client's own request for a chat completion, and return the response, with token ids and log
        probabilities if the server gives them. Raises ServerRefusal."""
        ...


@runtime_checkable
class DatedModel(Protocol):
    """A model whose chat template is rendered in this process."""

    date: date
    """The date for chat templates that print one. Default: today."""


class SampledModel(ABC):
    """Base class of models that sample tokens. Greedy decoding runs once, and its completion is repeated n times."""

    name: str

    async def generate(
        self, messages: Sequence[Message], sampling: Sampling, *, n: int = 1, prefix: str = ""
    ) -> Generation:
        if n < 1:
            raise ValueError(f"n is {n}: give at least 1")
        if sampling.temperature:
            return await self._sample(messages, sampling, n, prefix, None)
        generation = await self._sample(messages, sampling, 1, prefix, None)
        return replace(generation, completions=generation.completions * n)

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, show: Show, *, prefix: str = ""
    ) -> Generation:
        return await self._sample(messages, sampling, 1, prefix, show)

    @abstractmethod
    async def _sample(
        self, messages: Sequence[Message], sampling: Sampling, n: int, prefix: str, show: Show | None
    ) -> Generation:
        """``generate`` with a valid ``n``. If ``show`` is given, ``n`` is 1 and ``show`` gets the completion's text."""


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Cut ``text`` before the first stop string in it."""
    ends = [end for s in stop if (end := text.find(s)) >= 0]
    return text[: min(ends)] if ends else text
