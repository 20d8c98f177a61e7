"""Read a server's response to a request for chat completions: whole, streamed, or an error.

Servers disagree in which fields there are and what may be null. What can be read is read. Anything else is a ValueError
or TypeError, which says what is wrong with the response. Not here: sending requests, and what follows from an error.
"""

import json
import math
import re
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from agentdistill.models.event_stream import read_events
from agentdistill.models.model import Completion, Generation, Sampling, Show, cut_at_stop
from agentdistill.models.thoughts import between_tags
from agentdistill.redaction import redacted
from agentdistill.retry import is_transient
from agentdistill.well_formed import well_formed


class ServerError(ValueError):
    """An error that a server reports, with its status or within a response of status 200."""

    def __init__(self, body: bytes | Any, status: int | None = None) -> None:
        """``body``: of the response, as bytes, or its JSON. ``status``: of the response; None if it is 200, so that
        only the body may say which one is meant."""
        otherwise = body.decode("utf-8", "replace") if isinstance(body, bytes) else json.dumps(body)
        if isinstance(body, bytes):
            try:
                body = json.loads(body)
            except (ValueError, RecursionError):
                body = None
        super().__init__(redacted(_words(body, otherwise or "no reason given")))
        layers = [layer for layer in _layers(body) if isinstance(layer, dict)]
        codes = [layer[name] for layer in layers for name in ("code", "status", "type") if layer.get(name)]
        meant = (int(code) for code in codes if str(code).isdecimal() and 400 <= int(code) < 600)
        self.status = status or next(meant, None)
        """None if it is unknown."""
        self.codes = frozenset(map(str, codes))

    @property
    def is_transient(self) -> bool:
        """Whether a retry may succeed."""
        lasting = self.is_too_long or "insufficient_quota" in self.codes
        return not lasting and (self.status is None or is_transient(self.status))

    @property
    def is_too_long(self) -> bool:
        """Whether prompt and completion do not fit into the model's context."""
        return "context_length_exceeded" in self.codes or bool(_TOO_LONG.search(str(self)))


_TOO_LONG = re.compile(
    r"context (length|window|size)|prompt is too long|[Ii]nput is too long|max_model_len|maximum model length|"
    r"max_tokens must be at least 1, got -|max_new_tokens.{0,9} must be <=|inputs. must have less than|"
    r"exceeds the maximum number of tokens"
)


def read_json(body: bytes) -> Any:
    """The JSON of a response. Raises ValueError."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        excerpt = " ".join(body[:100].decode("utf-8", "replace").split())
        raise ValueError(f"it is not JSON: {excerpt or 'it is empty'}") from None


def read_completions(response: Any, sampling: Sampling) -> Generation:
    """Read the JSON of a response. Raises ValueError, TypeError or AttributeError for an invalid one."""
    if not isinstance(response, dict):
        raise TypeError("it is not an object")
    choices = response.get("choices")
    if not choices:
        raise ServerError(response) if _words(response, "") else ValueError("it has no choices")
    if not all(isinstance(choice, dict) and choice.get("message") for choice in choices):
        raise ValueError("a choice has no message")
    completions = []
    for choice in sorted(choices, key=lambda choice: int(choice.get("index") or 0)):
        if choice.get("finish_reason") == "error":  # OpenRouter, for a provider that failed
            raise ServerError(choice.get("error") or "a choice failed")
        reasoning, text = _written(choice["message"])
        tokens = _tokens(choice)
        logprobs = [token["logprob"] for token in tokens] if tokens is not None and sampling.logprobs else None
        finish_reason = str(choice.get("finish_reason") or "stop").lower()
        completion = Completion(
            between_tags(reasoning) + text,
            choice.get("token_ids"),
            None if logprobs and None in logprobs else logprobs,
            "length" if finish_reason in _CUT else finish_reason,
        ).with_thinking_split()
        # Not every server applies all stop strings, and stop strings do not apply to thinking.
        completions.append(replace(completion, text=cut_at_stop(completion.text, sampling.stop)))
    usage = response.get("usage")
    cached = _count(_field(usage, "prompt_tokens_details"), "cached_tokens")
    counts = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens"), cached
    return Generation(completions, response.get("prompt_token_ids"), *counts)


async def collect(parts: AsyncIterable[bytes], show: Show) -> dict[str, Any]:
    """Collect a streamed response into a whole one, and show its text as it arrives. Raises ValueError if the stream
    has no end: a finish reason or, from servers that give none, ``[DONE]`` or a last chunk with only the usage."""
    text, thought, logprobs, ids = "", "", list[Any](), list[int]()
    begun, finish_reason, usage, prompt_ids, failure = False, None, None, None, None
    async for chunk in _chunks(parts):
        if chunk is _DONE:
            finish_reason = finish_reason or ("stop" if begun else None)
            continue
        if chunk.get("usage"):
            usage, finish_reason = chunk["usage"], finish_reason or (None if chunk.get("choices") else "stop")
        prompt_ids = chunk.get("prompt_token_ids") or prompt_ids
        for choice in filter(None, chunk.get("choices") or ()):  # some servers send null for the last choices or delta
            begun = True
            delta = choice.get("delta") or choice.get("message")
            reasoning, said = _written(delta) if delta else ("", "")
            if reasoning:
                show(well_formed(reasoning if thought else f"<think>\n{reasoning}"))
                thought += reasoning
            if said:
                show(well_formed(f"\n</think>\n\n{said}" if thought and not text else said))
                text += said
            ids += choice.get("token_ids") or []
            logprobs += _tokens(choice) or []
            finish_reason = choice.get("finish_reason") or finish_reason
            failure = choice.get("error") or failure
    if finish_reason is None:
        raise ValueError("the stream ended early" if begun else "it has no choices")
    collected = {
        "message": {"content": text, "reasoning": thought},
        "logprobs": {"content": logprobs} if logprobs else None,
        "token_ids": ids or None,
        "finish_reason": finish_reason,
        "error": failure,
    }
    return {"choices": [collected], "usage": usage, "prompt_token_ids": prompt_ids}


def show_whole(response: Any, show: Show) -> None:
    """Show the text of a response that the server has not streamed."""
    match response:
        case {"choices": [{"message": dict(message)}, *_]}:
            show(well_formed(_written(message)[1]))


_DONE: dict[str, Any] = {}
"""Stands for the event that ends a stream."""


async def _chunks(parts: AsyncIterable[bytes]) -> AsyncIterator[dict[str, Any]]:
    """Yield each JSON object of a stream up to its end, and ``_DONE`` for that. Raises ServerError for an error: of
    Gemini (a list), of vLLM, or of an event with that name."""
    async with aclosing(read_events(parts)) as events:
        async for name, data in events:
            for chunk in _decoded(data):
                if chunk is _DONE:
                    yield _DONE
                    return
                if name == "error" or not isinstance(chunk, dict | None):
                    raise ServerError(chunk)
                if chunk:
                    if chunk.get("error") or (not chunk.get("choices") and _words(chunk, "")):
                        raise ServerError(chunk)
                    yield chunk


def _decoded(data: str) -> list[Any]:
    """The JSON of an event, or of each line from servers that put no blank line between events. What is not JSON is an
    error in plain words."""
    if data.startswith("[DONE]"):
        return [_DONE]
    try:
        return [json.loads(data, strict=False)]  # a text that spans several `data` lines has a newline in it
    except (ValueError, RecursionError):
        lines = data.split("\n")
        return [data] if len(lines) == 1 else [each for line in lines if line.strip() for each in _decoded(line)]


_CUT = ("length", "max_tokens", "model_length")
"""Finish reasons of completions that were cut at the token limit."""


def _field(value: Any, name: str) -> Any:
    """A field of a value that should be an object; None if it is not there."""
    return value.get(name) if isinstance(value, dict) else None


def _count(usage: Any, name: str) -> int:
    """A number of tokens; 0 if the server gives none."""
    count = _field(usage, name)
    return max(0, int(count)) if isinstance(count, int | float) and math.isfinite(count) else 0


def _tokens(choice: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The log probabilities of a choice, one object for each token."""
    tokens = _field(choice.get("logprobs"), "content")
    return tokens if isinstance(tokens, list) and all(isinstance(token, dict) for token in tokens) else None


def _written(message: Any) -> tuple[str, str]:
    """The reasoning and the text of a message or delta, in whichever fields the server puts them. A refusal is text.
    Raises TypeError if the content is neither text nor parts with text."""
    content = message.get("content") or message.get("refusal") or ""
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
    given = (message.get(name) for name in ("reasoning_content", "reasoning", "thinking"))
    return next((reasoning for reasoning in given if isinstance(reasoning, str) and reasoning), thought), text


def _layers(body: Any) -> Iterator[Any]:
    """The error in the JSON of a response, the error within that one, and so on. The last is the message, if any."""
    while body:
        if isinstance(body, list):  # Gemini sends a list
            body = body[0]
            continue
        yield body
        if not isinstance(body, dict):
            return
        nested = (body.get(name) for name in ("error", "errors", "message", "detail", "msg"))
        said = (body.get(name) for name in ("message", "detail", "msg", "error", "errors"))  # "error": "Bad Request"
        body = next(
            (each for each in nested if isinstance(each, dict | list) and each),
            next((each for each in said if isinstance(each, str)), None),
        )


def _words(body: Any, otherwise: str) -> str:
    """The error message in the JSON of a response, on one line, or else ``otherwise``. Includes the parameter that it
    is about, from which a client knows what to leave out."""
    place = message = None
    for layer in _layers(body):
        if isinstance(layer, dict):
            place = layer.get("param") or layer.get("loc") or place  # OpenAI's form, or FastAPI's
        else:
            message = layer
    text = " ".join(str(message or otherwise).split())[:500]
    where = ".".join(map(str, place)) if isinstance(place, list) else str(place or "")
    return text if where in text else f"{text} ({where})"
