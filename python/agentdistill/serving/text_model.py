"""How does a model that only reads and writes texts answer a request of OpenAI's protocol?

Tools are described and called in the text (models/tool_calls.py). Not here: models on a server, which get the request
itself (models/forwarding.py), and HTTP (http_server.py).
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from agentdistill.models.model import Completion, Model, Sampling
from agentdistill.models.tool_calls import as_texts, split_calls
from agentdistill.serving.api_server import ChatCompletion, joined_text
from agentdistill.serving.http_server import Json, Refused, validated

MAX_TOKENS = 4096
"""Maximum length of a completion if the request does not limit it."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Function(BaseModel):
    name: str
    arguments: str


class _Call(BaseModel):
    function: _Function


class _TextMessage(BaseModel):
    role: str
    content: Annotated[str, BeforeValidator(joined_text)] = ""
    tool_calls: list[_Call] | None = None


class _TextRequest(BaseModel):
    """A request to a model that reads and writes text."""

    model_config = ConfigDict(extra="allow")

    messages: list[_TextMessage]
    n: int = Field(1, ge=1, le=128)
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: Annotated[list[str], BeforeValidator(_as_list)] = []
    seed: int | None = None
    tools: list[Json] = []


# Parameters that a model in this process does not support, each with the values that are accepted.
_UNSUPPORTED: dict[str, list[object]] = {
    "response_format": [{"type": "text"}],
    "tool_choice": ["auto", "none", "required"],
    "functions": [[]],
    "frequency_penalty": [0],
    "presence_penalty": [0],
    "logit_bias": [{}],
    "top_logprobs": [0],
    "modalities": [["text"]],
}


async def completed(model: Model, body: Json) -> Json:
    """The model's reply to a request in OpenAI's protocol, with token ids (as in vLLM's server) and log probabilities.

    Raises Refused for a request that it does not support, and ModelError.
    """
    asked = validated(_TextRequest, {name: value for name, value in body.items() if value is not None})
    for name, accepted in _UNSUPPORTED.items():
        if (value := (asked.model_extra or {}).get(name)) is not None and value not in accepted:
            why = f"{name} is not supported by a model in this process: serve it, and name it openai:URL:NAME"
            raise Refused(400, why, param=name, code="unsupported_parameter")
    sampling = Sampling(
        asked.temperature,
        asked.top_p,
        asked.max_completion_tokens or asked.max_tokens or MAX_TOKENS,
        stop=tuple(filter(None, asked.stop)),
        logprobs=True,
        seed=asked.seed,
    )
    wanted = (asked.model_extra or {}).get("tool_choice")
    tools = [] if wanted == "none" else asked.tools
    messages = as_texts([message.model_dump() for message in asked.messages], tools, required=wanted == "required")
    generation = await model.generate(messages, sampling, n=asked.n)
    choices = []
    for index, completion in enumerate(generation.completions):
        text, calls = split_calls(completion.text) if tools else (completion.text, [])
        message: Json = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
        message |= {"tool_calls": calls} if calls else {}
        message |= {"reasoning_content": completion.reasoning} if completion.reasoning else {}
        choice: Json = {
            "index": index,
            "message": message,
            "finish_reason": "tool_calls" if calls else completion.finish_reason,
            "token_ids": completion.token_ids,
            "logprobs": _logprobs(completion),
        }
        choices.append(choice)
    usage: Json = {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens,
        "total_tokens": generation.prompt_tokens + generation.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": generation.cached_tokens},
    }
    whole = ChatCompletion(model.name).whole(choices, usage)
    return whole | {"prompt_token_ids": generation.prompt_token_ids}


def _logprobs(completion: Completion) -> Json | None:
    """Log probabilities in the protocol's form. Tokens are named by id, as vLLM's server does on request."""
    if not completion.token_ids or not completion.logprobs:
        return None
    tokens = zip(completion.token_ids, completion.logprobs, strict=True)
    return {
        "content": [
            {"token": f"token_id:{token}", "logprob": logprob, "bytes": None, "top_logprobs": []}
            for token, logprob in tokens
        ]
    }
