"""The agent as a model in OpenAI's protocol: requests by the real openai client over real HTTP."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from test_chat import Never

from agentdistill import Task, rollout
from agentdistill.models.model import Generation, Message, ModelError, Sampling
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.player import Player, RolloutConfig
from agentdistill.tools.tool import Tool, python_tool
from slow_run import adds, code

pytest.importorskip("uvicorn", reason="needs agentdistill[serve]")
from agentdistill.serving.chat_server import ChatServer
from agentdistill.serving.http_server import REQUEST_BYTES

SUM = [{"role": "user", "content": "What is 20 + 22?"}]
SAID = [
    "Thought: I act.\nCode:\n```py\nprint(20 + 22)\n```\n\n",
    "Observation:\n42\n\n",
    "Thought: I act.\nCode:\n```py\nfinal_answer(42)\n```\n\n",
]


@contextmanager
def serving(
    model: ScriptedModel | None = None, tools: Sequence[Tool] = (), *, concurrency: int = 64, **options: Any
) -> Iterator[ChatServer]:
    model = model or ScriptedModel("adder", adds)
    config = RolloutConfig(concurrency=concurrency)
    with Player(model, tools, config) as player, ChatServer(player, port=0, **options) as server:
        yield server


Client = Callable[..., openai.AsyncOpenAI]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """Creates clients of a server."""
    async with AsyncExitStack() as stack:

        def make(server: ChatServer, **options: Any) -> openai.AsyncOpenAI:
            made = openai.AsyncOpenAI(**{"base_url": server.url, "api_key": "none", "max_retries": 0} | options)
            stack.push_async_callback(made.close)
            return made

        yield make


@pytest.fixture(scope="module")
def adder() -> Iterator[ChatServer]:
    with serving() as server:
        yield server


async def until_episodes_are(number: int, server: ChatServer) -> None:
    async with httpx2.AsyncClient() as http:
        for _ in range(3000):
            if (await http.get(server.url.removesuffix("/v1") + "/health")).json()["episodes"] == number:
                return
            await asyncio.sleep(0.01)
    raise AssertionError(f"there are not {number} episodes under way")


# ---- answers ---------------------------------------------------------------------------------------


async def test_an_answer(adder: ChatServer, client: Client) -> None:
    response = await client(adder).chat.completions.create(model="adder", messages=SUM)
    (choice,) = response.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == ("42", "assistant", "stop")
    assert choice.message.reasoning_content == "".join(SAID)
    assert (response.object, response.model) == ("chat.completion", "adder")
    assert response.usage is not None


async def test_an_answer_in_pieces(adder: ChatServer, client: Client) -> None:
    stream = await client(adder).chat.completions.create(
        model="adder", messages=SUM, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta.model_dump(exclude_unset=True) for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": ""},
        *({"reasoning_content": said} for said in SAID),
        {"content": "42"},
        {},
    ]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 5 + ["stop"]
    assert len({chunk.id for chunk in [*chunks, last]}) == 1
    assert last.choices == [] and last.usage is not None


async def test_the_client_s_own_accumulation_of_a_stream(adder: ChatServer, client: Client) -> None:
    async with client(adder).chat.completions.stream(model="adder", messages=SUM) as stream:
        completion = await stream.get_final_completion()
    assert (completion.choices[0].message.content, completion.choices[0].finish_reason) == ("42", "stop")


async def test_models(adder: ChatServer, client: Client) -> None:
    assert [model.id async for model in client(adder).models.list()] == ["adder"]
    assert (await client(adder).models.retrieve("adder")).owned_by == "agentdistill"
    with pytest.raises(openai.NotFoundError, match="only 'adder'"):
        await client(adder).models.retrieve("other/model")


async def test_what_clients_send_and_an_agent_need_not_know(adder: ChatServer, client: Client) -> None:
    response = await client(adder).chat.completions.create(
        model="adder",
        messages=[{"role": "user", "content": [{"type": "text", "text": SUM[0]["content"]}]}],
        temperature=0.7,
        top_p=0.9,
        max_tokens=5,
        n=1,
        seed=1,
        stop=["4"],
        user="me",
        response_format={"type": "text"},
    )
    assert response.choices[0].message.content == "42"


CONVERSATIONS = {
    "a question": ([("user", "Q?")], "Q?"),
    "instructions": ([("system", "Be brief."), ("user", "Q?")], "Be brief.\n\nQ?"),
    "earlier turns": (
        [("developer", "Be brief."), ("user", "P?"), ("assistant", "A."), ("user", "Q?")],
        "Be brief.\n\nThe conversation so far:\nUser: P?\nAssistant: A.\n\nNow answer this:\nQ?",
    ),
}


@pytest.mark.parametrize("case", CONVERSATIONS)
async def test_a_conversation_is_one_question(case: str, client: Client) -> None:
    turns, question = CONVERSATIONS[case]
    asked: list[str] = []

    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        asked.extend(message.content for message in messages if message.role == "user")
        return code("final_answer(1)")

    with serving(ScriptedModel("m", policy)) as server:
        messages: Any = [{"role": role, "content": content} for role, content in turns]
        await client(server).chat.completions.create(model="m", messages=messages)
    assert asked == [question]


def gate() -> tuple[threading.Event, Tool]:
    """A tool that returns when the event is set."""
    opened = threading.Event()

    def wait() -> int:
        """Wait."""
        opened.wait(30)
        return 7

    return opened, python_tool(wait)


def waits(messages: Sequence[Message], prefix: str, index: int) -> str:
    """A model that waits, then answers."""
    return code("final_answer(wait())")


async def test_what_it_does_is_sent_before_it_is_done(client: Client) -> None:
    opened, tool = gate()
    with serving(ScriptedModel("m", waits), [tool]) as server:
        stream = await client(server).chat.completions.create(model="m", messages=SUM, stream=True)
        said = ""
        async for chunk in stream:
            said += getattr(chunk.choices[0].delta, "reasoning_content", None) or chunk.choices[0].delta.content or ""
            if "wait()" in said:
                opened.set()  # the answer cannot exist before this
        assert said.endswith("7")


async def test_requests_are_under_way_at_once(client: Client) -> None:
    together = threading.Barrier(8)

    def meet(number: int) -> int:
        """Come back when eight have called."""
        together.wait(30)
        return number

    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        return code(f"final_answer(meet({messages[1].content}))")

    with serving(ScriptedModel("m", policy), [python_tool(meet)]) as server:
        asking = client(server)

        async def ask(number: int, stream: bool) -> str:
            messages: Any = [{"role": "user", "content": str(number)}]
            if not stream:
                done = await asking.chat.completions.create(model="m", messages=messages)
                return done.choices[0].message.content or ""
            chunks = await asking.chat.completions.create(model="m", messages=messages, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

        answers = await asyncio.gather(*(ask(number, stream=number % 2 == 0) for number in range(8)))
    assert answers == [str(number) for number in range(8)]


def test_the_documentation_s_client(adder: ChatServer, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs/agent.md").read_text(encoding="utf-8")
    snippet, *_ = re.findall(r"^    from openai import OpenAI\n(?:    .*\n|\n)+", page, re.MULTILINE)
    for theirs, ours in {
        "http://127.0.0.1:8000/v1": adder.url,
        '"student"': '"adder"',
        "Who wrote the music of Metropolis?": SUM[0]["content"],
    }.items():
        assert theirs in snippet
        snippet = snippet.replace(theirs, ours)
    exec(textwrap.dedent(snippet), {})
    assert capsys.readouterr().out == f"{''.join(SAID)}42"


# ---- limits and errors -----------------------------------------------------------------------------


async def test_no_more_than_so_many_at_once(client: Client) -> None:
    opened, tool = gate()
    with serving(ScriptedModel("m", waits), [tool], concurrency=1) as server:
        first = asyncio.create_task(client(server).chat.completions.create(model="m", messages=SUM))
        await until_episodes_are(1, server)
        with pytest.raises(openai.RateLimitError) as refused:
            await client(server).chat.completions.create(model="m", messages=SUM)
        assert refused.value.response.headers["retry-after"] == "1"
        second = asyncio.create_task(client(server, max_retries=9).chat.completions.create(model="m", messages=SUM))
        opened.set()
        assert {(await first).choices[0].message.content, (await second).choices[0].message.content} == {"7"}


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_time_limit_is_positive(seconds: float) -> None:
    with pytest.raises(ValueError, match="give more than 0"), serving(seconds=seconds):
        pass


async def test_a_request_that_takes_too_long_has_no_answer(client: Client) -> None:
    with serving(Never(), seconds=0.05) as server:
        response = await client(server).chat.completions.create(model="never", messages=SUM)
        assert (response.choices[0].message.content, response.choices[0].finish_reason) == ("", "length")
        stream = await client(server).chat.completions.create(model="never", messages=SUM, stream=True)
        assert [chunk.choices[0].finish_reason async for chunk in stream][-1] == "length"
        await until_episodes_are(0, server)


async def test_an_agent_that_runs_out_of_steps_and_answers_nothing(client: Client) -> None:
    with serving(ScriptedModel("m", lambda messages, prefix, index: code(f"print({len(messages)})"))) as server:
        response = await client(server).chat.completions.create(model="m", messages=SUM)
    assert (response.choices[0].message.content, response.choices[0].finish_reason) == ("", "length")
    assert response.choices[0].message.reasoning_content.count("Observation:") == 5


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_episode(stream: bool, client: Client) -> None:
    with serving(Never()) as server:
        leaving = asyncio.create_task(consume(client(server), stream))
        await until_episodes_are(1, server)
        leaving.cancel()
        await until_episodes_are(0, server)


async def consume(asking: openai.AsyncOpenAI, stream: bool) -> None:
    response: Any = await asking.chat.completions.create(model="never", messages=SUM, stream=stream)
    if isinstance(response, AsyncIterator):
        async for _ in response:
            pass


class Failing(ScriptedModel):
    def __init__(self, error: Exception) -> None:
        super().__init__("failing", adds)
        self._error = error

    async def generate(
        self, messages: Sequence[Message], sampling: Sampling, *, n: int = 1, prefix: str = ""
    ) -> Generation:
        raise self._error


@pytest.mark.parametrize(
    "error, said", [(ModelError("the key is SECRET"), "the model failed"), (OSError("SECRET"), "the server failed")]
)
async def test_a_failure_is_told_to_the_client_and_its_reason_to_the_log(
    error: Exception, said: str, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(Failing(error)) as server:
        with pytest.raises(openai.InternalServerError, match=said) as failed:
            await client(server).chat.completions.create(model="failing", messages=SUM)
        assert "SECRET" not in str(failed.value.body)
        stream = await client(server).chat.completions.create(model="failing", messages=SUM, stream=True)
        with pytest.raises(openai.APIError, match=said):
            _ = [chunk async for chunk in stream]
    assert caplog.text.count("SECRET") >= 2


# What is wrong with a request -> the fields that differ from a valid one, the status, and the error's param and words.
WRONG: dict[str, tuple[dict[str, Any], int, str | None, str]] = {
    "another model": ({"model": "gpt-4"}, 404, "model", "only 'adder'"),
    "no messages": ({"messages": []}, 400, "messages", "messages"),
    "no question at the end": ({"messages": [*SUM, {"role": "assistant", "content": "A"}]}, 400, "messages", "last"),
    "an empty question": ({"messages": [{"role": "user", "content": " "}]}, 400, "messages", "empty"),
    "an unknown role": ({"messages": [{"role": "tool", "content": "1"}]}, 400, "messages.0.role", "'user'"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        400,
        "messages.0.content",
        "parts that are not text",
    ),
    "several answers": ({"n": 2}, 400, "n", "one answer"),
    "tools": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools", "its own tools"),
    "JSON as an answer": ({"response_format": {"type": "json_object"}}, 400, "response_format", "as text"),
    "log probabilities": ({"logprobs": True}, 400, "logprobs", "not supported"),
    "a stream of no kind": ({"stream": "perhaps"}, 400, "stream", "bool"),
    "too large": ({"messages": [{"role": "user", "content": "x" * REQUEST_BYTES}]}, 413, None, "bytes"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_cannot_be_answered_is_an_error_of_the_protocol(
    case: str, adder: ChatServer, client: Client
) -> None:
    sent, status, param, said = WRONG[case]
    with pytest.raises(openai.APIStatusError, match=said) as refused:
        await client(adder).chat.completions.create(**{"model": "adder", "messages": SUM} | sent)
    assert (refused.value.status_code, refused.value.type) == (status, "invalid_request_error")
    assert param is None or refused.value.param == param


# A request that no openai client sends -> method, path, headers, body, and the status.
JSON = {"Content-Type": "application/json"}
STRANGE: dict[str, tuple[str, str, dict[str, str], bytes, int]] = {
    "no JSON": ("POST", "/chat/completions", JSON, b"{]", 400),
    "no object": ("POST", "/chat/completions", JSON, b"[1]", 400),
    "endless nesting": ("POST", "/chat/completions", JSON, b"[" * 100_000, 400),
    "no Unicode": ("POST", "/chat/completions", JSON, b'{"model": "\xff"}', 400),
    "a form of a web page": ("POST", "/chat/completions", {"Content-Type": "text/plain"}, b"{}", 415),
    "a web page by a name of its own": ("GET", "/models", {"Host": "evil.example:80"}, b"", 403),
    "a wrong method": ("GET", "/chat/completions", {}, b"", 405),
    "a wrong path": ("GET", "/embeddings", {}, b"", 404),
}


@pytest.mark.parametrize("case", STRANGE)
async def test_whatever_is_sent_gets_an_error_of_the_protocol(case: str, adder: ChatServer, client: Client) -> None:
    method, path, headers, body, status = STRANGE[case]
    async with httpx2.AsyncClient() as http:
        response = await http.request(method, adder.url + path, headers=headers, content=body)
    assert response.status_code == status
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}


async def test_the_key_is_asked_for(client: Client) -> None:
    with serving(api_key="schlüssel", name="served") as server:
        for wrong in ("none", "schl", "schlusselschlussel"):
            with pytest.raises(openai.AuthenticationError, match="wrong API key"):
                await client(server, api_key=wrong).models.list()
        headers = {"Authorization": "Bearer schlüssel".encode()}
        async with httpx2.AsyncClient() as http:
            models = (await http.get(f"{server.url}/models", headers=headers)).json()
        assert [model["id"] for model in models["data"]] == ["served"]
        await until_episodes_are(0, server)  # the health check needs no key


# ---- its end ---------------------------------------------------------------------------------------


async def test_what_is_under_way_when_it_stops_is_answered(client: Client) -> None:
    opened, tool = gate()
    with serving(ScriptedModel("m", waits), [tool]) as server:
        asked = asyncio.create_task(client(server).chat.completions.create(model="m", messages=SUM))
        await until_episodes_are(1, server)
        ending = asyncio.get_running_loop().run_in_executor(None, server.__exit__)
        with pytest.raises(ConnectionError):  # it accepts no more connections
            for _ in range(3000):
                _, writer = await asyncio.open_connection("127.0.0.1", int(server.url.split(":")[2].split("/")[0]))
                writer.close()
                await asyncio.sleep(0.01)
        opened.set()
        assert (await asked).choices[0].message.content == "7"
        await ending


def test_the_command(tmp_path: Path) -> None:
    rollout([Task("t", SUM[0]["content"])], ScriptedModel("adder", adds), output=tmp_path / "t.jsonl", progress=False)
    command = [
        sys.executable,
        "-m",
        "agentdistill",
        "serve",
        "--model",
        "recorded:t.jsonl",
        "--name",
        "a",
        "--port",
        "0",
    ]
    environment = os.environ | {"AGENTDISTILL_API_KEY": "k"}
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        url = server.stderr.readline().removeprefix("serving a at ").strip()
        with openai.OpenAI(base_url=url, api_key="k", max_retries=0) as asking:
            response = asking.chat.completions.create(model="a", messages=SUM)
        server.send_signal(signal.SIGTERM)
        assert (server.wait(30), server.stderr.read()) == (0, "")
    assert response.choices[0].message.content == "42"
