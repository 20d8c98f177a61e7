"""A model on a server with OpenAI's chat completions API: vLLM, SGLang, llama.cpp, Ollama, OpenAI itself.

Servers differ in the features they support: several completions per request, token ids, continuing a partial assistant
turn. The first request that needs a feature finds out whether the server supports it. Transient failures (timeouts,
dropped connections, overload, invalid responses) are retried (retry.py). Permanent errors raise ModelError at once.

Not here: starting a server.
"""

import asyncio
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from agentdistill.models.control_tokens import neutralized
from agentdistill.models.forwarding import Forwarder
from agentdistill.models.model import (
    NEUTRAL,
    Completion,
    Generation,
    Message,
    ModelError,
    SampledModel,
    Sampling,
    Show,
    cut_at_stop,
)
from agentdistill.models.rendering import alternating, without_system
from agentdistill.models.thoughts import between_tags
from agentdistill.per_process import PerProcess
from agentdistill.redaction import hide_in_environment, public_url, redacted
from agentdistill.retry import Retries, is_transient, retry_after
from agentdistill.well_formed import well_formed

_log = logging.getLogger(__name__)


class OpenAIModel(SampledModel):
    """The model ``name`` on the server at ``base_url``. The API key, if any, is read from OPENAI_API_KEY.

    Use it from a single event loop.
    """

    def __init__(
        self,
        base_url: str,
        name: str,
        *,
        retries: int = 8,
        timeout: float = 600.0,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        """``retries``: how often a request is retried (8 retries take about two minutes). ``timeout``: seconds for one
        attempt. ``template``: additional arguments of the server's chat template, e.g. ``{"enable_thinking": False}``.
        """
        if retries < 0 or timeout <= 0:
            raise ValueError(f"retries is {retries} and timeout {timeout}: give at least 0 and more than 0 seconds")
        self.name = name
        self._base_url = base_url
        self._template = {"chat_template_kwargs": dict(template)} if template else {}
        self._retries = Retries(self._where(), retries, ModelError)
        key = os.environ.get("OPENAI_API_KEY") or "none"
        hide_in_environment({"OPENAI_API_KEY": key})
        make = partial(openai.AsyncOpenAI, base_url=base_url, api_key=key, max_retries=0, timeout=timeout)
        try:
            self._clients = PerProcess(make)
        except httpx2.InvalidURL as error:
            raise ValueError(f"the URL of the model {name} is not valid: {error}") from None
        self._forwarder = Forwarder(lambda: self._clients.get(), self._where(), {"model": name, **self._template})
        self._knows = _Abilities()
        self._continues: bool | None = None  # whether it can continue a partial turn; None: not known yet
        self._probing = asyncio.Lock()

    async def _sample(
        self, messages: Sequence[Message], sampling: Sampling, n: int, prefix: str, show: Show | None
    ) -> Generation:
        conversation = [{"role": role, "content": neutralized(well_formed(content))} for role, content in messages]
        prefix = neutralized(prefix)
        begun = bool(prefix) and await self._can_continue()
        if begun:
            conversation.append({"role": "assistant", "content": prefix})
        elif prefix:
            conversation = _instructed(conversation, prefix)
        extra = self._template | (_CONTINUE if begun else {})
        parts = [await self._ask(conversation, sampling, n, 0, extra, None if prefix and not begun else show)]
        while (have := sum(len(part.completions) for part in parts)) < n:
            # The server returned fewer than requested: request the missing ones concurrently.
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

    async def forward(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a client's own request, and return the response. Raises ServerRefusal."""
        return await self._forwarder.send(request)

    async def close(self) -> None:
        await self._clients.get().close()

    @property
    def refused(self) -> frozenset[str]:
        """Parameters that the server has refused. Its own defaults apply to them."""
        return self._knows.without

    @property
    def retried(self) -> int:
        """Number of retries so far."""
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
        """Request up to ``n`` completions, beginning with number ``first``.

        A request that the server refuses is sent again with fewer features, and the features that work are remembered.
        """
        tries = self._knows.alternatives(n)
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
                elif knows.token_ids and "return_token_ids" in str(refused):
                    tries = [replace(each, token_ids=False) for each in (knows, *tries)]
                elif (roles := refused.roles(knows.roles)) is not None:
                    tries = [replace(each, roles=roles) for each in (knows, *tries)]
                elif names := refused.parameters(knows.without):
                    tries = [replace(each, without=each.without | names) for each in (knows, *tries)]
                if not tries:
                    raise ModelError(f"{self._where()} rejects the request: {refused}") from refused
        if knows != self._knows:  # remembered only now that it worked: the request itself might have been invalid
            for name in sorted(knows.without - self._knows.without):
                _log.warning(
                    "%s rejects %s: requests now omit it, and the server's default applies", self._where(), name
                )
            if "system" in self._knows.roles - knows.roles:
                _log.warning("%s has no system role: the prompt is put before the first question", self._where())
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
        """Send one request, and retry transient failures. Raises _Refused or ModelError."""
        arguments: dict[str, Any] = {
            "model": self.name,
            "messages": knows.fitting(conversation),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            knows.limit: sampling.max_tokens + (sampling.thinking_tokens or 0),
        }
        neutral = {name: value for name, value in NEUTRAL.items() if name not in knows.without}
        arguments["extra_body"] = neutral | extra | ({"return_token_ids": True} if knows.token_ids else {})
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
                response = await self._clients.get().chat.completions.create(**arguments)
                if show:
                    response = await _streamed(response, show)
                self._retries.answered()
                generation = _generation(response, sampling)
                if any(c.thinking and not c.text.strip() and c.finish_reason == "stop" for c in generation.completions):
                    _log.warning(
                        "%s sent a completion that is all reasoning, without content, so no action. Does the "
                        "server's reasoning parser fit the model?",
                        self._where(),
                    )
                return generation
            except openai.APIStatusError as error:
                self._retries.answered()
                if not _is_transient(error) or _is_too_long(error):
                    raise await self._permanent(error) from error
                problem, wait = _message(error), retry_after(error.response.headers)
            except (openai.APIConnectionError, openai.APITimeoutError, httpx2.HTTPError) as error:
                problem, unreachable = f"{error} {error.__cause__ or ''}".strip(), _is_unreachable(error)
            except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:  # no completion
                said = _words(error.body, str(error)) if isinstance(error, openai.APIError) else error
                problem = f"its response is not a chat completion ({said})"
            await asyncio.sleep(self._retries.pause(attempt, problem, wait=wait, unreachable=unreachable))
            attempt += 1

    async def _permanent(self, error: openai.APIStatusError) -> Exception:
        """Return the exception for an error that a retry cannot fix."""
        message = _message(error)
        if error.status_code in (400, 413, 422) or _is_too_long(error):
            return _Refused(message, too_long=_is_too_long(error))
        match error.status_code:
            case 401 | 403:
                return ModelError(f"{self._where()} rejects the API key: {message}. Set OPENAI_API_KEY")
            case 404:
                try:
                    names = ", ".join([model.id async for model in self._clients.get().models.list()]) or "none"
                except openai.OpenAIError:
                    names = "unknown; does its URL end in /v1?"
                return ModelError(f"{self._where()} has no such model: {message}. Its models: {names}")
        return ModelError(f"{self._where()} rejects the request: {message} (status {error.status_code})")

    async def _can_continue(self) -> bool:
        """Whether the server can continue a partial assistant turn.

        A server that ignores the request counts more prompt tokens: it ends that turn and opens another.
        """
        async with self._probing:
            if self._continues is None:
                begun = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One"}]
                try:
                    going_on, anew = [
                        await self._send(begun, Sampling(max_tokens=1), 1, 0, extra, self._knows.plain())
                        for extra in (_CONTINUE, {})
                    ]
                    self._continues = 0 < going_on.prompt_tokens < anew.prompt_tokens
                except _Refused:
                    self._continues = False
                if not self._continues:
                    _log.warning("%s cannot continue a turn: an instruction asks for the prefix instead", self._where())
            return self._continues

    def _where(self) -> str:
        return f"the model {self.name} at {public_url(self._base_url)}"


_CONTINUE: dict[str, object] = {"continue_final_message": True, "add_generation_prompt": False}


_OPTIONAL = ("stream_options", "logprobs", "stop", "top_p", "temperature", "seed")
"""Parameters that may be left out of a request. Of two that a server rejects together, the less important is first."""


class _Refused(Exception):
    """The server rejected this request as invalid (status 400, 413, 422)."""

    def __init__(self, message: str, *, too_long: bool) -> None:
        super().__init__(message)
        self.too_long = too_long

    def parameters(self, without: frozenset[str]) -> frozenset[str]:
        """Parameters to leave out next: one that the error names, or all neutral ones if it names one of these.

        ``without``: parameters that were already left out.
        """
        named = [name for name in (*NEUTRAL, *_OPTIONAL) if re.search(rf"\b{name}\b", str(self))]
        first = next((name for name in named if name not in without), None)
        return frozenset(NEUTRAL if first in NEUTRAL else [first] if first else [])

    def roles(self, known: frozenset[str]) -> frozenset[str] | None:
        """The remaining roles, if the error says that one of ``known`` is not supported; else None."""
        suspects = []
        if re.search(r"\balternat(e|ing)\b", str(self), re.I):
            suspects = ["repeated", "system"]
        elif re.search(r"system (role|message|prompt)|role.{0,20}system", str(self), re.I):
            suspects = ["system"]
        wrong = next((suspect for suspect in suspects if suspect in known), None)
        return known - {wrong} if wrong else None


@dataclass(frozen=True)
class _Abilities:
    """Features that the server is assumed to support."""

    token_ids: bool = True
    several: bool = True
    limit: str = "max_tokens"
    without: frozenset[str] = frozenset()
    """Parameters that the server has refused."""
    roles: frozenset[str] = frozenset({"system", "repeated"})
    """What its chat template supports: "system", a system role; "repeated", consecutive turns of one role."""

    def alternatives(self, n: int) -> "list[_Abilities]":
        """This and reduced alternatives, in the order in which to try them for a request of ``n`` completions."""
        several = (True, False) if self.several and n > 1 else (self.several,)
        ways = [self, self.plain()] if self.plain() != self else [self]
        return [replace(way, several=more) for more in several for way in ways]

    def plain(self) -> "_Abilities":
        """This, without the features and parameters that OpenAI's API does not have."""
        return replace(self, token_ids=False, without=self.without | set(NEUTRAL))

    def fitting(self, conversation: list[dict[str, str]]) -> list[dict[str, str]]:
        """The conversation, rewritten to use only roles that the chat template supports."""
        messages = [Message(**message) for message in conversation]
        if "system" not in self.roles:
            messages = without_system(messages)
        if "repeated" not in self.roles:
            messages = alternating(messages)
        return [message._asdict() for message in messages]


async def _streamed(chunks: Any, show: Show) -> Any:
    """Collect a streamed response into a complete one, and show its text as it arrives. Raises ValueError if the stream
    has no end: a finish reason or, from servers that give none, a last chunk with only the usage."""
    if "json" in chunks.response.headers.get("content-type", ""):  # the server does not stream
        body = json.loads(await chunks.response.aread())
        if not isinstance(body, dict):
            raise ValueError("it is not an object")
        whole = ChatCompletion.construct(**body)
        if whole.choices and (said := getattr(whole.choices[0], "message", None)):
            show(_written(said)[1])
        return whole
    message, thought, logprobs, ids = "", "", list[Any](), list[int]()
    finish_reason = usage = prompt_ids = None
    async for chunk in chunks:
        if not isinstance(chunk, ChatCompletionChunk) or getattr(chunk, "message", None):
            if not chunk:
                continue
            # An error of Gemini (a list), of vLLM, or of an event with that name.
            raise ValueError(_words(chunk, "an error"))
        if chunk.usage:
            usage, finish_reason = chunk.usage, finish_reason or (None if chunk.choices else "stop")
        prompt_ids = getattr(chunk, "prompt_token_ids", None) or prompt_ids
        for choice in filter(None, chunk.choices or ()):  # some servers send null for the last choices or delta
            delta = choice.delta or getattr(choice, "message", None)
            reasoning, text = _written(delta) if delta else ("", "")
            if reasoning:
                show(well_formed(reasoning if thought else f"<think>\n{reasoning}"))
                thought += reasoning
            if text:
                show(well_formed(f"\n</think>\n\n{text}" if thought and not message else text))
                message += text
            ids += getattr(choice, "token_ids", None) or []
            logprobs += choice.logprobs.content or [] if choice.logprobs else []
            finish_reason = choice.finish_reason or finish_reason
    if finish_reason is None:
        raise ValueError("the stream ended early")
    collected = SimpleNamespace(
        index=0,
        message=SimpleNamespace(content=message, reasoning=thought),
        logprobs=SimpleNamespace(content=logprobs) if logprobs else None,
        token_ids=ids or None,
        finish_reason=finish_reason,
    )
    return SimpleNamespace(choices=[collected], usage=usage, prompt_token_ids=prompt_ids)


def _generation(response: Any, sampling: Sampling) -> Generation:
    """Parse a server's response. Raises ValueError, TypeError or AttributeError for an invalid one."""
    if not isinstance(response, ChatCompletion | SimpleNamespace):
        raise TypeError("it is not an object")
    if not response.choices:
        raise ValueError(_words(response, "it has no choices"))
    if not all(getattr(choice, "message", None) for choice in response.choices):
        raise ValueError("a choice has no message")
    completions = []
    for choice in sorted(response.choices, key=lambda choice: int(choice.index or 0)):
        if choice.finish_reason == "error":  # OpenRouter, for a provider that failed
            raise ValueError(_words(getattr(choice, "error", None), "a choice failed"))
        reasoning, text = _written(choice.message)
        tokens = choice.logprobs.content if choice.logprobs is not None else None
        logprobs = [token.logprob for token in tokens] if tokens is not None and sampling.logprobs else None
        finish_reason = str(choice.finish_reason or "stop").lower()
        completion = Completion(
            between_tags(reasoning) + text,
            getattr(choice, "token_ids", None),
            None if logprobs and None in logprobs else logprobs,
            "length" if finish_reason in _CUT else finish_reason,
        ).with_thinking_split()
        # Not every server applies all stop strings, and stop strings do not apply to thinking.
        completions.append(replace(completion, text=cut_at_stop(completion.text, sampling.stop)))
    usage = response.usage
    cached = _count(getattr(usage, "prompt_tokens_details", None), "cached_tokens")
    counts = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens"), cached
    return Generation(completions, getattr(response, "prompt_token_ids", None), *counts)


_CUT = ("length", "max_tokens", "model_length")
"""Finish reasons of completions that were cut at the token limit."""


def _count(usage: Any, name: str) -> int:
    """A number of tokens; 0 if the server gives none."""
    count = getattr(usage, name, None)
    return max(0, int(count)) if isinstance(count, int | float) else 0


def _written(message: Any) -> tuple[str, str]:
    """The reasoning and the text of a message or delta, in whichever fields the server puts them. A refusal is text.
    Raises TypeError if the content is neither text nor parts with text."""
    if isinstance(message, dict):
        message = SimpleNamespace(**{"content": None} | message)
    content = message.content or getattr(message, "refusal", None) or ""
    thought = text = ""
    for part in content if isinstance(content, list) else [content]:
        match part:
            case str(said) | {"text": str(said)}:
                text += said
            case {"thinking": str(said)}:
                thought += said
            case {"thinking": list(said)}:  # Mistral
                thought += "".join(each.get("text", "") for each in said)
            case _:
                raise TypeError("its content is not text")
    given = (getattr(message, name, None) for name in ("reasoning_content", "reasoning", "thinking"))
    return next((reasoning for reasoning in given if isinstance(reasoning, str) and reasoning), thought), text


def _instructed(conversation: list[dict[str, str]], prefix: str) -> list[dict[str, str]]:
    """Append an instruction to begin the reply with ``prefix``, for servers that cannot continue a turn."""
    wish = f"Begin your reply with exactly the following text, and go on from there:\n{prefix}"
    *before, last = conversation
    if last["role"] != "user":
        return [*conversation, {"role": "user", "content": wish}]
    return [*before, {"role": "user", "content": f"{last['content']}\n\n{wish}"}]


def _without_prefix(completion: Completion, prefix: str) -> Completion:
    """Remove the prefix, if the model wrote it. Also drop token ids and logprobs, which no longer match the text."""
    words = r"\s+".join(re.escape(word) for word in prefix.split())
    if begun := re.match(rf"\s*{words}", completion.text):
        return replace(completion, text=completion.text[begun.end() :], token_ids=None, logprobs=None)
    return replace(completion, text=f"\n{completion.text.lstrip()}", token_ids=None, logprobs=None)


def _is_transient(error: openai.APIStatusError) -> bool:
    """Whether the error is transient, so that a retry may succeed."""
    return is_transient(error.status_code) and error.code != "insufficient_quota"


def _is_unreachable(error: openai.APIConnectionError | httpx2.HTTPError) -> bool:
    """Whether the connection was refused, or the host does not exist."""
    return type(error.__cause__).__name__ == "ConnectError"  # of httpx, or of another HTTP library


def _is_too_long(error: openai.APIStatusError) -> bool:
    too_long = (
        r"context (length|window|size)|prompt is too long|[Ii]nput is too long|max_model_len|maximum model length|"
        r"max_tokens must be at least 1, got -|max_new_tokens.{0,9} must be <=|inputs. must have less than|"
        r"exceeds the maximum number of tokens"
    )
    return error.code == "context_length_exceeded" or bool(re.search(too_long, _message(error)))


def _message(error: openai.APIStatusError) -> str:
    """The server's error message, on one line."""
    text = error.response.text
    try:
        body = error.response.json()  # the client's message omits a body of unexpected form
    except ValueError:
        body = None
    return redacted(_words(body, text or error.message))


def _words(body: Any, otherwise: str) -> str:
    """The error message in the JSON of a response, on one line, or else ``otherwise``. Includes the parameter that it
    is about, from which :class:`_Refused` knows what to leave out."""
    place: Any = None
    while isinstance(body, dict | list | openai.BaseModel) and body:
        if isinstance(body, list):  # Gemini sends a list
            body = body[0]
            continue
        if isinstance(body, openai.BaseModel):
            body = body.model_dump()
        place = body.get("param") or body.get("loc") or place  # OpenAI's form, or FastAPI's
        inner = body.get("error") or body.get("errors")
        body = inner or body.get("message") or body.get("detail") or body.get("msg")
    message = " ".join(str(body or otherwise).split())[:500]
    where = ".".join(map(str, place)) if isinstance(place, list) else str(place or "")
    return message if where in message else f"{message} ({where})"
