"""Send a request of OpenAI's protocol to a model's server as it is, and return the response as it is.

``OpenAIModel.generate`` asks for completions of texts. Here the request is that of a program which speaks the protocol
itself, with its own tools and parameters (``agentdistill record``). Token ids and log probabilities are requested in
addition, unless the server has refused them. Nothing is retried: errors go to the program.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import openai
from pydantic import BaseModel, Field, ValidationError

from agentdistill.models.model import ServerRefusal
from agentdistill.redaction import redacted

_ADDED = {"return_token_ids": True, "logprobs": True}
_NOT_SENT = ("stream", "stream_options")  # the response arrives as a whole


class Forwarder:
    """Forwards requests to one server."""

    def __init__(self, client: Callable[[], openai.AsyncOpenAI], where: str, fixed: Mapping[str, object]) -> None:
        """``where``: the server's name in errors. ``fixed``: parameters that replace those of a request."""
        self._client = client
        self._where = where
        self._fixed = dict(fixed)
        self._added = dict(_ADDED)

    async def send(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and return the response's JSON. Raises ServerRefusal."""
        added = dict(self._added)
        kept = {name: value for name, value in request.items() if name not in _NOT_SENT}
        while True:
            body = kept | added | self._fixed
            try:
                response = await self._client().post("/chat/completions", cast_to=object, body=body)
            except openai.APIStatusError as error:
                text = error.response.text
                refused = next((name for name in added if name in text and not request.get(name)), None)
                if error.status_code in (400, 422) and refused:
                    del added[refused]
                    continue
                raise self._refusal(error) from error
            except openai.OpenAIError as error:  # no connection, or a time limit
                message = redacted(f"{self._where} cannot be reached: {error} {error.__cause__ or ''}".strip())
                raise ServerRefusal(502, message) from error
            except (ValueError, RecursionError):  # no JSON
                response = None
            try:
                _Reply.model_validate(response)
            except ValidationError as error:
                raise ServerRefusal(502, f"the response of {self._where} is not a chat completion: {error}") from error
            self._added = added
            return cast("dict[str, Any]", response)

    def _refusal(self, error: openai.APIStatusError) -> ServerRefusal:
        try:
            body = error.response.json()
        except ValueError:
            body = None
        message = redacted(f"{self._where} refuses the request: {error.message}")
        return ServerRefusal(error.status_code, message, body if isinstance(body, dict) else None)


class _Token(BaseModel):
    logprob: float


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Choice(BaseModel):
    message: dict[str, Any]
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    token_ids: list[int] | None = None


class _CachedTokens(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _CachedTokens | None = None


class _Reply(BaseModel):
    """What callers rely on in a response."""

    choices: list[_Choice] = Field(min_length=1)
    prompt_token_ids: list[int] | None = None
    usage: _Usage | None = None
