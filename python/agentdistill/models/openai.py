"""A model on a server with OpenAI's chat completions API: vLLM, SGLang, llama.cpp, Ollama, OpenAI itself.

Servers differ in the features they support: several completions per request, token ids, continuing a partial assistant
turn. The first request that needs a feature finds out whether the server supports it. Transient failures (timeouts,
dropped connections, overload, invalid responses) are retried (retry.py). Permanent errors raise ModelError at once.

Not here: starting a server.
"""

import asyncio
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import httpx2
import openai

from agentdistill.models.chat_completion import ServerError, collect, read_completions, read_json, show_whole
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
)
from agentdistill.models.rendering import alternating, without_system
from agentdistill.per_process import PerProcess
from agentdistill.redaction import hide_in_environment, public_url
from agentdistill.retry import Retries, retry_after
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
        if not isinstance(retries, int) or retries < 0:
            raise ValueError(f"retries is {retries!r}: give a whole number of at least 0")
        if not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
            raise ValueError(f"timeout is {timeout!r}: give more than 0 seconds")
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
                generation = read_completions(await self._receive(arguments, show), sampling)
                if any(c.thinking and not c.text.strip() and c.finish_reason == "stop" for c in generation.completions):
                    _log.warning(
                        "%s sent a completion that is all reasoning, without content, so no action. Does the "
                        "server's reasoning parser fit the model?",
                        self._where(),
                    )
                return generation
            except openai.APIStatusError as error:
                self._retries.answered()
                failed = ServerError(error.response.content, error.status_code)
                if not failed.is_transient:
                    raise await self._permanent(failed) from error
                problem, wait = str(failed), retry_after(error.response.headers)
            except (openai.APIConnectionError, openai.APITimeoutError, httpx2.HTTPError) as error:
                problem, unreachable = f"{error} {error.__cause__ or ''}".strip(), _is_unreachable(error)
            except (ValueError, TypeError, AttributeError) as error:  # no completion
                if isinstance(error, ServerError) and not error.is_transient:
                    raise await self._permanent(error) from error
                problem = f"its response is not a chat completion ({error})"
            await asyncio.sleep(self._retries.pause(attempt, problem, wait=wait, unreachable=unreachable))
            attempt += 1

    async def _receive(self, arguments: dict[str, Any], show: Show | None) -> Any:
        """Send one request, and return the JSON of the response, collected if it is a stream."""
        raw = await self._clients.get().chat.completions.with_raw_response.create(**arguments)
        response = raw.http_response
        try:
            if show and response.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                collected = await collect(response.aiter_bytes(), show)
                self._retries.answered()
                return collected
            whole = read_json(await response.aread())
        finally:
            await response.aclose()
        self._retries.answered()
        if show:  # the server does not stream
            show_whole(whole, show)
        return whole

    async def _permanent(self, error: ServerError) -> Exception:
        """Return the exception for an error that a retry cannot fix."""
        if error.is_too_long or error.status in (400, 413, 422):
            return _Refused(str(error), too_long=error.is_too_long)
        match error.status:
            case 401 | 403:
                return ModelError(f"{self._where()} rejects the API key: {error}. Set OPENAI_API_KEY")
            case 404:
                try:
                    names = ", ".join([model.id async for model in self._clients.get().models.list()]) or "none"
                except openai.OpenAIError:
                    names = "unknown; does its URL end in /v1?"
                return ModelError(f"{self._where()} has no such model: {error}. Its models: {names}")
        status = f" (status {error.status})" if error.status else ""
        return ModelError(f"{self._where()} rejects the request: {error}{status}")

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


def _is_unreachable(error: openai.APIConnectionError | httpx2.HTTPError) -> bool:
    """Whether the connection was refused, or the host does not exist."""
    return type(error.__cause__).__name__ == "ConnectError"  # of httpx, or of another HTTP library
