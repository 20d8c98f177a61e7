"""A model behind any server that speaks OpenAI's chat protocol: vLLM, SGLang, llama.cpp, Ollama, OpenAI itself.

Servers differ in what they know and often fail for a moment. What a server lacks is found out by asking, once: several
completions in one request, token ids, continuing a turn that was begun. What passes (time-outs, cut connections,
overload, garbage) is asked again (retry.py); what does not pass is a ModelError at once.

Not here: starting a server.
"""

import asyncio
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import httpx2
import openai

from agentdistill.models.control_tokens import broken
from agentdistill.models.model import (
    Completion,
    Generation,
    Message,
    ModelError,
    SampledModel,
    Sampling,
    Show,
    cut_at_stop,
)
from agentdistill.retry import Retries, passes, retry_after

_log = logging.getLogger(__name__)


class OpenAIModel(SampledModel):
    """The model ``name`` of the server at ``base_url``. The key is taken from OPENAI_API_KEY, if the server wants one.

    To be asked from one event loop.
    """

    def __init__(self, base_url: str, name: str, *, retries: int = 8, timeout: float = 600.0) -> None:
        """``retries``: how often a request is tried again (8 take two minutes). ``timeout``: seconds for one try."""
        if retries < 0 or timeout <= 0:
            raise ValueError(f"retries is {retries} and timeout {timeout}: give at least 0 and more than 0 seconds")
        self.name = name
        self._base_url = base_url
        self._retries = Retries(self._where(), retries, ModelError)
        key = os.environ.get("OPENAI_API_KEY") or "none"
        self._client = openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=timeout)
        self._knows = _Abilities()
        self._continues: bool | None = None  # whether it can go on with a turn that was begun; not known yet
        self._probing = asyncio.Lock()

    async def _draw(
        self, messages: Sequence[Message], sampling: Sampling, n: int, prefix: str, show: Show | None
    ) -> Generation:
        conversation = [{"role": role, "content": broken(content)} for role, content in messages]
        prefix = broken(prefix)
        begun = bool(prefix) and await self._can_continue()
        if begun:
            conversation.append({"role": "assistant", "content": prefix})
        elif prefix:
            conversation = _instructed(conversation, prefix)
        extra = dict(_CONTINUE) if begun else {}
        parts = [await self._ask(conversation, sampling, n, 0, extra, None if prefix and not begun else show)]
        while (have := sum(len(part.completions) for part in parts)) < n:
            # It gives fewer than it was asked for: ask for the missing ones, all at once.
            size = max(len(part.completions) for part in parts)
            parts += await asyncio.gather(
                *(self._ask(conversation, sampling, min(size, n - i), i, extra) for i in range(have, n, size))
            )
        completions = [completion for part in parts for completion in part.completions][:n]
        if prefix and not begun:
            completions = [_without_prefix(completion, prefix) for completion in completions]
            if show:
                show(completions[0].text)
        used = sum(part.completion_tokens for part in parts)
        return replace(parts[0], completions=completions, completion_tokens=used)

    async def close(self) -> None:
        await self._client.close()

    @property
    def retried(self) -> int:
        """How many requests had to be sent again so far."""
        return self._retries.retried

    async def _ask(
        self,
        conversation: list[dict[str, str]],
        sampling: Sampling,
        n: int,
        first: int,
        extra: dict[str, object],
        show: Show | None = None,
    ) -> Generation:
        """Up to ``n`` completions, the ``first``-th and following, with whatever the server is able to do."""
        tries = self._knows.and_less(n)
        while True:
            knows = tries.pop(0)
            try:
                generation = await self._send(conversation, sampling, n, first, extra, knows, show)
                break
            except _Refused as refused:
                if refused.too_long:
                    cut = Completion("", [], [] if sampling.logprobs else None, "length")
                    return Generation([cut] * n, None, 0, 0)
                if knows.limit == "max_tokens" and "max_completion_tokens" in str(refused):
                    tries = [replace(each, limit="max_completion_tokens") for each in (knows, *tries)]
                elif name := refused.parameter(knows.without):
                    tries = [replace(each, without=each.without | {name}) for each in (knows, *tries)]
                if not tries:
                    raise ModelError(f"{self._where()} refuses the request: {refused}") from refused
        if knows != self._knows:  # only what has worked is remembered: the request itself might have been wrong
            for name in sorted(knows.without - self._knows.without):
                _log.warning("%s refuses %s: it is asked without, and its own default holds", self._where(), name)
            self._knows = knows
        return generation

    async def _send(
        self,
        conversation: list[dict[str, str]],
        sampling: Sampling,
        n: int,
        first: int,
        extra: dict[str, object],
        knows: "_Abilities",
        show: Show | None = None,
    ) -> Generation:
        """One request, sent until it is answered. Raises _Refused, ModelError."""
        arguments: dict[str, Any] = {
            "model": self.name,
            "messages": conversation,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            knows.limit: sampling.max_tokens,
            "extra_body": {**extra, **({"return_token_ids": True} if knows.token_ids else {})},
        }
        if knows.several and n > 1:
            arguments["n"] = n
        if sampling.stop:
            arguments["stop"] = list(sampling.stop)
        if sampling.logprobs:
            arguments["logprobs"] = True
        if sampling.seed is not None:
            arguments["seed"] = sampling.seed + first
        if show:
            arguments |= {"stream": True, "stream_options": {"include_usage": True}}
        for name in knows.without:
            arguments.pop(name, None)
        attempt = 0
        while True:
            wait, unreachable = None, False
            try:
                response = await self._client.chat.completions.create(**arguments)
                if show:
                    response = await _streamed(response, show)
                self._retries.answered()
                return _generation(response, sampling)
            except openai.APIStatusError as error:
                self._retries.answered()
                if not _passes(error):
                    raise await self._permanent(error) from error
                problem, wait = _message(error), retry_after(error.response.headers)
            except (openai.APIConnectionError, openai.APITimeoutError, httpx2.HTTPError) as error:
                problem, unreachable = f"{error} {error.__cause__ or ''}".strip(), _is_unreachable(error)
            except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:  # an answer, but no completion
                problem = f"it answers with something else than a chat completion ({error})"
            await asyncio.sleep(self._retries.pause(attempt, problem, wait=wait, unreachable=unreachable))
            attempt += 1

    async def _permanent(self, error: openai.APIStatusError) -> Exception:
        """What to raise for an error that asking again would not mend."""
        message = _message(error)
        match error.status_code:
            case 400 | 413 | 422:
                return _Refused(message, too_long=_is_too_long(error))
            case 401 | 403:
                return ModelError(f"{self._where()} does not let us in: {message}. Set OPENAI_API_KEY to its key")
            case 404:
                try:
                    names = ", ".join([model.id async for model in self._client.models.list()]) or "none"
                except openai.OpenAIError:
                    names = "unknown; does its URL end in /v1?"
                return ModelError(f"{self._where()} has no such model: {message}. Its models: {names}")
        return ModelError(f"{self._where()} refuses: {message} (status {error.status_code})")

    async def _can_continue(self) -> bool:
        """Whether the server goes on with a turn that was begun.

        One that ignores the wish counts some tokens more: those that end that turn and open another.
        """
        async with self._probing:
            if self._continues is None:
                begun = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One"}]
                try:
                    going_on, anew = [
                        await self._send(
                            begun, Sampling(max_tokens=1), 1, 0, extra, replace(self._knows, token_ids=False)
                        )
                        for extra in (_CONTINUE, {})
                    ]
                    self._continues = 0 < going_on.prompt_tokens < anew.prompt_tokens
                except _Refused:
                    self._continues = False
                if not self._continues:
                    _log.warning("%s cannot continue a turn: prefixes are given as instructions", self._where())
            return self._continues

    def _where(self) -> str:
        return f"the model {self.name} at {self._base_url}"


_CONTINUE: dict[str, object] = {"continue_final_message": True, "add_generation_prompt": False}


_OPTIONAL = ("stream_options", "logprobs", "stop", "top_p", "temperature", "seed")
"""Parameters that a request can do without. Of two that exclude each other, the one that matters less comes first."""


class _Refused(Exception):
    """The server says that this request is wrong (400, 413, 422)."""

    def __init__(self, message: str, *, too_long: bool) -> None:
        super().__init__(message)
        self.too_long = too_long

    def parameter(self, without: frozenset[str]) -> str | None:
        """The parameter that it names and that can be left out; ``without``: those that were."""
        named = (name for name in _OPTIONAL if re.search(rf"\b{name}\b", str(self)))
        return next((name for name in named if name not in without), None)


@dataclass(frozen=True)
class _Abilities:
    """What the server is believed to know."""

    token_ids: bool = True
    several: bool = True
    limit: str = "max_tokens"
    without: frozenset[str] = frozenset()
    """Parameters that the server has refused."""

    def and_less(self, n: int) -> "list[_Abilities]":
        """This, and what to do without if the server refuses a request for ``n`` completions, the least first."""
        token_ids = (True, False) if self.token_ids else (False,)
        several = (True, False) if self.several and n > 1 else (self.several,)
        return [replace(self, token_ids=ids, several=more) for more in several for ids in token_ids]


async def _streamed(chunks: Any, show: Show) -> Any:
    """A streamed answer as if it had come whole; its text is shown on the way. Raises ValueError for one that has no
    end."""
    message, logprobs, ids = "", list[Any](), list[int]()
    finish_reason = usage = prompt_ids = None
    async for chunk in chunks:
        usage = chunk.usage or usage
        prompt_ids = getattr(chunk, "prompt_token_ids", None) or prompt_ids
        for choice in chunk.choices or ():  # some send null at the end, for the choices or for the delta
            if choice.delta and (text := choice.delta.content):
                show(text)
                message += text
            ids += getattr(choice, "token_ids", None) or []
            logprobs += choice.logprobs.content or [] if choice.logprobs else []
            finish_reason = choice.finish_reason or finish_reason
    if finish_reason is None:
        raise ValueError("the stream breaks off")
    choice = SimpleNamespace(
        index=0,
        message=SimpleNamespace(content=message),
        logprobs=SimpleNamespace(content=logprobs) if logprobs else None,
        token_ids=ids or None,
        finish_reason=finish_reason,
    )
    return SimpleNamespace(choices=[choice], usage=usage, prompt_token_ids=prompt_ids)


def _generation(response: Any, sampling: Sampling) -> Generation:
    """What a server's answer says. Raises ValueError, TypeError or AttributeError for one that says nothing."""
    if not response.choices:
        raise ValueError("there is no choice in it")
    completions = []
    for choice in sorted(response.choices, key=lambda choice: choice.index or 0):
        text = choice.message.content or ""
        if not isinstance(text, str):
            raise TypeError("its content is no text")
        tokens = choice.logprobs.content if choice.logprobs is not None else None
        completions.append(
            Completion(
                cut_at_stop(text, sampling.stop),  # not every server knows all of them
                getattr(choice, "token_ids", None),
                [token.logprob for token in tokens] if tokens is not None and sampling.logprobs else None,
                choice.finish_reason or "stop",
            )
        )
    usage = response.usage
    prompt_tokens, used = (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
    details = usage.prompt_tokens_details if usage else None
    cached = (details.cached_tokens or 0) if details else 0
    return Generation(completions, getattr(response, "prompt_token_ids", None), prompt_tokens, used, cached)


def _instructed(conversation: list[dict[str, str]], prefix: str) -> list[dict[str, str]]:
    """The prefix as a wish, at the end of what the model reads."""
    wish = f"Begin your reply with exactly the following text, and go on from there:\n{prefix}"
    *before, last = conversation
    if last["role"] != "user":
        return [*conversation, {"role": "user", "content": wish}]
    return [*before, {"role": "user", "content": f"{last['content']}\n\n{wish}"}]


def _without_prefix(completion: Completion, prefix: str) -> Completion:
    """What comes after the prefix, if the model wrote it; its tokens are no longer those of the text."""
    words = r"\s+".join(re.escape(word) for word in prefix.split())
    if begun := re.match(rf"\s*{words}", completion.text):
        return replace(completion, text=completion.text[begun.end() :], token_ids=None, logprobs=None)
    return replace(completion, text=f"\n{completion.text.lstrip()}", token_ids=None, logprobs=None)


def _passes(error: openai.APIStatusError) -> bool:
    """Whether asking again may help."""
    return passes(error.status_code) and error.code != "insufficient_quota"


def _is_unreachable(error: openai.APIConnectionError | httpx2.HTTPError) -> bool:
    """Whether nobody listens there, or there is no such host."""
    return type(error.__cause__).__name__ == "ConnectError"  # of httpx, or whatever openai's client then uses


def _is_too_long(error: openai.APIStatusError) -> bool:
    too_long = r"maximum context length|context (length|window|size)|prompt is too long|max_model_len"
    return error.code == "context_length_exceeded" or bool(re.search(too_long, _message(error)))


def _message(error: openai.APIStatusError) -> str:
    """The server's own words, in one line."""
    try:
        body = error.response.json()  # the client's own message says nothing of a body that it does not expect
    except ValueError:
        body = error.response.text
    while isinstance(body, list) and body:  # Gemini sends a list
        body = body[0]
    while isinstance(body, dict):
        inner = body.get("error")
        body = inner if isinstance(inner, str | dict) else body.get("message") or body.get("detail")
    return " ".join(str(body or error.message).split())[:500]
