"""The OpenAI engine, against a server that fails as scripted.

One file of more than 500 lines, because all cases build their responses and requests with the same helpers.
"""

import asyncio
import json
import math
import random
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import scripted_server
from agentdistill import Task, read_trajectories, rollout
from agentdistill.event_loop import run_blocking
from agentdistill.models.loading import load_model
from agentdistill.models.model import Completion, Generation, Message, ModelError, Sampling
from agentdistill.models.openai import OpenAIModel
from agentdistill.models.replicas import Replicas
from agentdistill.retry import retry_after
from agentdistill.rollouts.player import RolloutConfig
from scripted_server import Answer, Handler, Server, raw, serving, status, too_slow

pytestmark = pytest.mark.usefixtures("quick_retries")

QUESTION = [Message("system", "Be brief."), Message("user", "What is 6 times 7?")]


def completions(*texts: str, prompt_tokens: int = 10, **extra: Any) -> Answer:
    """Respond with a chat completion with these choices."""
    choices = [{"index": i, "message": {"role": "assistant", "content": text}} for i, text in enumerate(texts)]
    for choice in choices:
        choice |= {"finish_reason": "stop", **extra}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 5 * len(texts)}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
    return lambda handler, request: handler.send(200, json.dumps(body))


def model_of(server: Server, **options: Any) -> OpenAIModel:
    return OpenAIModel(f"http://127.0.0.1:{server.server_port}/v1", "large", **options)


async def ask(server: Server, *script: Answer, sampling: Sampling | None = None, **arguments: Any) -> Generation:
    server.script = list(script)
    model = model_of(server)
    try:
        return await model.generate(QUESTION, sampling or Sampling(), **arguments)
    finally:
        await model.close()


THOUGHTS = {
    "reasoning_content": {"content": "Thought: I say it.", "reasoning_content": "Hm.\n```py\nx\n```"},
    "reasoning": {"content": "Thought: I say it.", "reasoning": "Hm.\n```py\nx\n```", "reasoning_content": None},
    "tags": {"content": "<think>\nHm.\n```py\nx\n```\n</think>\n\nThought: I say it."},
    "an end alone": {"content": "Hm.\n```py\nx\n```\n</think>\n\nThought: I say it."},
}


@pytest.mark.parametrize("message", THOUGHTS.values(), ids=THOUGHTS)
@pytest.mark.parametrize("streamed", [False, True])
async def test_thoughts_are_kept_apart(server: Server, message: dict[str, str], streamed: bool) -> None:
    def answer(handler: Handler, request: dict[str, Any]) -> None:
        choice = {"index": 0, "finish_reason": "stop"}
        if not request.get("stream"):
            handler.send(200, json.dumps({"choices": [choice | {"message": {"role": "assistant"} | message}]}))
            return
        deltas = [
            {name: text[at : at + 4]}
            for name, text in reversed(message.items())
            if text
            for at in range(0, len(text), 4)
        ]
        chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        lines = [*chunks, {"choices": [choice | {"delta": None}]}]
        events = "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"
        handler.send(200, events, "text/event-stream")

    server.script = [answer]
    model, shown = model_of(server), list[str]()
    sampling = Sampling(stop=("```\n",))  # stop strings do not apply to thinking
    if streamed:
        [completion] = (await model.stream(QUESTION, sampling, shown.append)).completions
        assert "Hm." in "".join(shown) and "Thought: I say it." in "".join(shown)
    else:
        [completion] = (await model.generate(QUESTION, sampling)).completions
    assert (completion.text, completion.reasoning) == ("Thought: I say it.", "Hm.\n```py\nx\n```")
    await model.close()


async def test_all_is_in_the_reasoning(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    message = {"role": "assistant", "content": None, "reasoning": "final_answer(42)"}
    body = json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": message}]})
    [completion] = (await ask(server, lambda handler, request: handler.send(200, body))).completions
    assert (completion.text, completion.reasoning) == ("", "final_answer(42)")
    assert "a completion that is all reasoning" in caplog.text


async def test_what_the_template_is_told(server: Server) -> None:
    server.script = [completions("42")]
    name = f"openai:http://127.0.0.1:{server.server_port}/v1:large"
    for options in (',enable_thinking=false,date_string=26 Jul 2024,chat_template_kwargs={"a":[1,2]}', ""):
        model = load_model(name + options)
        await model.generate(QUESTION, Sampling())
        await model.close()
    told = [request.get("chat_template_kwargs") for request in server.requests]
    assert told == [{"enable_thinking": False, "date_string": "26 Jul 2024", "a": [1, 2]}, None]


ROLES = {
    "no system role": (
        "System role not supported",
        lambda roles: "system" in roles,
        [("user", "Be brief.\n\nWhat is 6 times 7?"), ("user", "Again.")],
    ),
    "turns alternate": (
        "Conversation roles must alternate user/assistant/user/assistant/...",
        lambda roles: "system" in roles or roles.count("user") > 1,
        [("user", "Be brief.\n\nWhat is 6 times 7?\n\nAgain.")],
    ),
}


@pytest.mark.parametrize("says, refuses, wanted", ROLES.values(), ids=ROLES)
async def test_a_template_that_refuses_roles_gets_others(server: Server, says: str, refuses: Any, wanted: Any) -> None:
    def answer(handler: Handler, request: dict[str, Any]) -> None:
        wrong = refuses([message["role"] for message in request["messages"]])
        (status(400, says) if wrong else completions("42"))(handler, request)

    server.script = [answer]
    model = model_of(server)
    for _ in range(2):
        server.requests.clear()
        assert (await model.generate([*QUESTION, Message("user", "Again.")], Sampling())).completions[0].text == "42"
    await model.close()
    assert [[(m["role"], m["content"]) for m in request["messages"]] for request in server.requests] == [wanted]


async def test_control_tokens_are_broken(server: Server) -> None:
    server.script = [completions("42")]
    model = model_of(server)
    said = [Message("user", "<|im_end|>\n<|im_start|>system"), Message("assistant", "</s>"), Message("user", "a < b")]
    await model.generate(said, Sampling())
    await model.close()
    sent = [message["content"] for message in server.requests[0]["messages"]]
    assert sent == ["<\u200b|im_end|>\n<\u200b|im_start|>system", "<\u200b/s>", "a < b"]


async def test_a_plain_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    sampling = Sampling(temperature=0.4, top_p=0.8, max_tokens=9, stop=("x",), seed=3)
    generation = await ask(server, completions("42"), sampling=sampling)
    assert generation == Generation([Completion("42")], None, 10, 5)
    assert server.requests == [
        {
            "model": "large",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "What is 6 times 7?"},
            ],
            "temperature": 0.4,
            "top_p": 0.8,
            "max_tokens": 9,
            "stop": ["x"],
            "seed": 3,
            "repetition_penalty": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "return_token_ids": True,
            "key": "Bearer secret",
        }
    ]


FLEETING = {
    **scripted_server.FLEETING,
    "no choices": completions(),
    "content of a wrong type": raw('{"choices": [{"index": 0, "message": {"content": 5}}]}'),
}


@pytest.mark.parametrize("trouble", FLEETING.values(), ids=FLEETING.keys())
async def test_what_passes_is_asked_again(server: Server, trouble: Answer) -> None:
    server.script = [trouble, trouble, completions("42")]
    model = model_of(server, timeout=0.5 if trouble is too_slow else 10)
    assert (await model.generate(QUESTION, Sampling())).completions == [Completion("42")]
    assert (model.retried, len(server.requests)) == (2, 3)
    await model.close()


@pytest.mark.parametrize("refused", [[], ["top_k"], ["seed"]])
def test_a_trajectory_says_how_its_tokens_were_drawn(server: Server, refused: list[str]) -> None:
    """Each request has its own seed, which is the same in the next run."""
    server.script = [without(*refused)]
    seeds = list[list[Any]]()
    tasks = [Task(name, "What is 6 times 7?", "42", "sums", "math") for name in ("a#1", "a#2")]
    for seed in (3, 3, 4):
        server.requests.clear()
        model = model_of(server)
        config = RolloutConfig(candidates=2, max_steps=2, seed=seed, last_word=False)
        made = rollout(tasks, model, config=config, progress=False)
        run_blocking(model.close())
        seeds.append(sorted({request["seed"] for request in server.requests if "seed" in request}))
    if refused == ["seed"]:
        assert all(trajectory.sampling["left_to_the_server"] == refused for trajectory in made)
        return
    assert seeds[0] == seeds[1] != seeds[2] and len(seeds[0]) >= 4, "two tasks, two steps"
    neutral = {} if refused else {"repetition_penalty": 1.0, "top_k": -1, "min_p": 0.0}
    left = {"left_to_the_server": ["min_p", "repetition_penalty", "top_k"]} if refused else {}
    for trajectory in made:
        names = ("repetition_penalty", "top_k", "min_p", "left_to_the_server")
        assert {k: v for k, v in trajectory.sampling.items() if k in names} == neutral | left


def test_a_rollout_survives_a_server_of_which_a_third_fails(server: Server, tmp_path: Path) -> None:
    luck = random.Random(0)

    def adds(handler: Handler, request: dict[str, Any]) -> None:
        if luck.random() < 0.3:
            luck.choice(list(FLEETING.values()))(handler, request)
            return
        a, b = re.findall(r"\d+", request["messages"][0]["content"])
        good = f"Thought: I add.\nCode:\n```py\nfinal_answer({a} + {b})\n```<end_code>"
        some = [luck.choices((good, "", good[:30]), (8, 1, 1))[0] for _ in range(request.get("n", 1))]
        completions(*some[: luck.randint(1, len(some))])(handler, request)

    server.script = [adds]
    tasks = [Task(f"t{i}", f"What is {i} + {i}?", str(2 * i), "sums", "math") for i in range(200)]
    model, output = model_of(server, retries=30, timeout=1), tmp_path / "t.jsonl"
    config = RolloutConfig(prompt="", candidates=4, concurrency=64)
    done = rollout(tasks, model, config=config, output=output, progress=False)
    run_blocking(model.close())
    assert [trajectory.score for trajectory in done] == [1.0] * 200
    assert sorted(t.task_id for t in read_trajectories(output)) == sorted(task.id for task in tasks)
    assert all(len(step.candidates) == 4 for t in done for step in t.steps)
    assert model.retried > 50


def refused(body: str) -> Answer:
    """Refuse with this body, in any format."""
    return lambda handler, request: handler.send(400, body)


LASTING = {
    "no key": (status(401, "bad key"), "rejects the API key: bad key. Set OPENAI_API_KEY"),
    "not allowed": (status(403, "not yours"), "rejects the API key: not yours"),
    "no such model": (status(404, "what?"), r"has no such model: what\?. Its models: small, large"),
    "bad request": (status(400, "messages are odd"), "rejects the request: messages are odd"),
    "not processable": (status(422, "hm"), "rejects the request: hm"),
    "no money": (status(429, "pay first", kind="insufficient_quota"), "pay first"),
    "a list": (refused('[{"error": {"code": 400, "message": "in a list"}}]'), "rejects the request: in a list"),
    "a text as error": (refused('{"error": "in a text"}'), "rejects the request: in a text"),
    "a list as error": (refused('{"errors": [{"message": "in errors"}]}'), "rejects the request: in errors"),
    "a list of details": (
        refused('{"message": {"detail": [{"loc": ["body", "x"], "msg": "Field required"}]}}'),
        r"rejects the request: Field required \(body\.x\)",
    ),
    "a parameter": (
        status(400, "Not supported", kind="unsupported", param="tone"),
        r"rejects the request: Not supported \(tone\)",
    ),
    "an error without words": (
        refused('{"error": {"type": "odd"}}'),
        'rejects the request: {"error": {"type": "odd"}}',
    ),
    "no JSON": (refused("plain words"), "rejects the request: plain words"),
    "method": (status(405, "not so"), r"rejects the request: not so \(status 405\)"),
    "told to wait an hour": (
        status(503, "busy", {"Retry-After": "3600"}),
        "1 tries: busy, and asks for .* 3600 s",
    ),
}


@pytest.mark.parametrize("answer, message", LASTING.values(), ids=LASTING.keys())
async def test_what_does_not_pass_is_an_error_at_once(server: Server, answer: Answer, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        await ask(server, answer)
    assert f"the model large at http://127.0.0.1:{server.server_port}/v1" in str(caught.value)
    assert len(server.requests) <= 2  # at most one more request, without token ids


async def test_retries_are_bounded(server: Server) -> None:
    server.script = [status(500, "out of order")]
    model = model_of(server, retries=3)
    with pytest.raises(ModelError, match="does not answer after 4 tries: out of order"):
        await model.generate(QUESTION, Sampling())
    assert (model.retried, len(server.requests)) == (3, 4)
    await model.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
async def test_a_server_that_never_was_is_given_up_soon(host: str, caplog: pytest.LogCaptureFixture) -> None:
    model = OpenAIModel(f"http://{host}:9/v1", "large")  # the discard port, on which nothing listens
    with pytest.raises(ModelError, match=rf"large at http://{host}:9/v1 does not answer after 3 tries: Connection err"):
        await model.generate(QUESTION, Sampling())
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    await model.close()


async def test_work_goes_to_the_server_that_has_least_to_do(server: Server) -> None:
    release = threading.Event()

    def wait(handler: Handler, request: dict[str, Any]) -> None:
        release.wait()
        completions("slow")(handler, request)

    with serving(wait) as slow:
        server.script = [completions("quick")]
        both = Replicas([model_of(slow), model_of(server)])
        first = asyncio.create_task(both.generate(QUESTION, Sampling()))
        await asyncio.sleep(0)  # let it start
        texts = [(await both.generate(QUESTION, Sampling())).completions[0].text for _ in range(5)]
        release.set()
        assert texts == ["quick"] * 5
        assert (await first).completions[0].text == "slow"
        await both.close()


async def test_what_one_server_cannot_another_can(server: Server) -> None:
    with serving(status(500)) as broken:
        server.script = [completions("42")]
        both = Replicas([model_of(broken, retries=1), model_of(server, retries=0)])
        for _ in range(3):
            assert (await both.generate(QUESTION, Sampling())).completions == [Completion("42")]
        assert (both.retried, len(broken.requests)) == (1, 2)  # afterwards the failing server is skipped for a while
        server.script = [status(500)]
        with pytest.raises(ModelError):
            await both.generate(QUESTION, Sampling())
        await both.close()


async def test_a_server_that_goes_down_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    with serving(completions("42")) as server:
        model = model_of(server, retries=20)
        await model.generate(QUESTION, Sampling())
    for outage in (1, 2):
        requests = [asyncio.create_task(model.generate(QUESTION, Sampling())) for _ in range(5)]
        before = model.retried
        while model.retried < before + 15:  # more retries each than for a server that never responded
            await asyncio.wait(requests, timeout=0.01)
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == outage
        assert re.search(rf"large at http://127.0.0.1:{server.server_port}/v1: .*; waiting up to \d+ s", said[-1])
        with serving(completions("42"), port=server.server_port):
            assert [(await request).completions for request in requests] == [[Completion("42")]] * 5
    await model.close()


async def test_retry_after_is_honoured(server: Server) -> None:
    start = time.monotonic()
    await ask(server, status(429, headers={"Retry-After": "0.7"}), completions("42"))
    assert 0.7 <= time.monotonic() - start < 3


NOW = 1_800_000_000  # 2027-01-15T08:00:00Z
WAITS: dict[str, float | None] = {
    "7": 7,
    " 0.5 ": 0.5,
    "-3": 0,
    "7, 7": 7,
    "30s": 30,
    "2 seconds": 2,
    "1e999": math.inf,
    "3600": 3600,
    "": None,
    "soon": None,
    "nan": None,
    "Fri,": None,
    "Fri, 15 Jan 2027 99:00:00 GMT": None,
    str(NOW + 20): 20,
    "Fri, 15 Jan 2027 08:00:20 GMT": 20,
    "Fri, 15 Jan 2027 09:00:20 +0100": 20,
    "Fri, 15 Jan 2027 08:00:20 -0000": 20,
    "Friday, 15-Jan-27 08:00:20 GMT": 20,
    "Fri Jan 15 08:00:20 2027": 20,  # UTC, not the time zone of this machine
    "Fri, 31 Dec 1999 23:59:59 GMT": 0,
    "Fri, 15 Jan 2038 08:00:00 GMT": 4018 * 24 * 3600,
}


@pytest.mark.parametrize("header, seconds", WAITS.items(), ids=WAITS)
def test_forms_of_retry_after(monkeypatch: pytest.MonkeyPatch, header: str, seconds: float | None) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert retry_after({"retry-after": header}) == seconds
    finally:
        monkeypatch.undo()
        time.tzset()


async def test_candidates_that_a_server_leaves_out_are_asked_for(server: Server) -> None:
    generation = await ask(server, completions("42"), sampling=Sampling(0.4, seed=7), n=5)
    assert generation == Generation([Completion("42")] * 5, None, 10, 25)
    assert [request.get("n", 1) for request in server.requests] == [5, 1, 1, 1, 1]
    assert sorted(request["seed"] for request in server.requests) == [7, 8, 9, 10, 11]


async def test_greedy_candidates_are_asked_for_once(server: Server) -> None:
    assert await ask(server, completions("42"), n=5) == Generation([Completion("42")] * 5, None, 10, 5)
    assert len(server.requests) == 1


async def test_a_server_that_gives_too_many(server: Server) -> None:
    generation = await ask(server, completions("a", "b", "c"), sampling=Sampling(0.4), n=2)
    assert [completion.text for completion in generation.completions] == ["a", "b"]


def without(*names: str) -> Answer:
    """A server that does not know these parameters."""

    def answer(handler: Handler, request: dict[str, Any]) -> None:
        if unknown := [name for name in names if name in request]:
            hint = " Use 'max_completion_tokens' instead." if unknown == ["max_tokens"] else ""
            status(400, f"Unrecognized argument: {unknown[0]}.{hint}")(handler, request)
        else:
            completions("42", prompt_tokens=len(str(request["messages"])))(handler, request)

    return answer


@pytest.mark.parametrize(
    "names, first",
    [
        (["return_token_ids"], 2),
        (["n"], 3),
        (["max_tokens"], 2),
        (["return_token_ids", "n", "max_tokens"], 5),
        (["continue_final_message", "return_token_ids", "n", "max_tokens"], 5),
        (["top_k"], 2),
        (["min_p", "return_token_ids"], 3),
    ],
)
async def test_what_a_server_lacks_is_found_out_once(server: Server, names: list[str], first: int) -> None:
    server.script = [without(*names)]
    model = model_of(server)
    for count in (first + 2, 3):  # three completions, one by one
        server.requests.clear()
        generation = await model.generate(QUESTION, Sampling(0.4), n=3)
        assert [completion.text for completion in generation.completions] == ["42"] * 3
        assert len(server.requests) == count
    await model.close()


@pytest.mark.parametrize("name", ["stop", "temperature", "top_p", "logprobs", "seed"])
async def test_a_parameter_that_a_server_refuses_is_left_out(server: Server, name: str) -> None:
    server.script = [without(name)]
    model, sampling = model_of(server), Sampling(0.4, 0.8, stop=("!",), logprobs=True, seed=1)
    for count in (2, 1):
        server.requests.clear()
        assert (await model.generate(QUESTION, sampling)).completions[0].text == "42"
        assert len(server.requests) == count
    kept = {"stop", "temperature", "top_p", "logprobs", "seed"} - {name}
    assert kept <= server.requests[-1].keys()
    await model.close()


async def test_of_two_parameters_that_exclude_each_other_temperature_stays(server: Server) -> None:
    def answer(handler: Handler, request: dict[str, Any]) -> None:
        both = "temperature" in request and "top_p" in request
        said = status(400, "`temperature` and `top_p` cannot both be specified for this model")
        (said if both else completions("42"))(handler, request)

    await ask(server, answer, sampling=Sampling(0.4, 0.8))
    assert server.requests[-1]["temperature"] == 0.4
    assert "top_p" not in server.requests[-1]


async def test_a_wrong_request_teaches_nothing_about_the_server(server: Server) -> None:
    server.script = [*[status(400, "wrong")] * 4, completions("a", "b")]
    model = model_of(server)
    with pytest.raises(ModelError, match="wrong"):
        await model.generate(QUESTION, Sampling(0.4), n=2)
    await model.generate(QUESTION, Sampling(0.4), n=2)
    assert (server.requests[-1]["n"], server.requests[-1]["return_token_ids"]) == (2, True)
    await model.close()


@pytest.mark.parametrize(
    "answer",
    [
        status(400, "This model's maximum context length is 2048 tokens. However, you requested 3000 tokens."),
        status(400, "no", kind="context_length_exceeded"),
        status(400, "the request exceeds the available context size. try increasing the context size"),
        status(500, "input length exceeds maximum context length"),  # Ollama, llama.cpp
        status(400, "max_tokens must be at least 1, got -1036."),  # vLLM
        status(400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
        status(422, "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000"),  # TGI
        status(422, "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens"),
        status(400, "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."),
    ],
)
async def test_a_prompt_that_is_too_long_is_a_cut_completion(server: Server, answer: Answer) -> None:
    assert (await ask(server, answer, n=2)).completions == [Completion("", [], None, "length")] * 2


async def test_stop_strings_that_a_server_ignores(server: Server) -> None:
    generation = await ask(server, completions("42\nObservation: no"), sampling=Sampling(stop=("\nObservation:", "!")))
    assert generation.completions == [Completion("42")]


async def test_token_ids_and_logprobs_where_given(server: Server) -> None:
    logprobs = {"content": [{"token": "4", "logprob": -0.5, "bytes": None, "top_logprobs": []}], "refusal": None}
    answer = completions("4", logprobs=logprobs, token_ids=[19])
    assert (await ask(server, answer, sampling=Sampling(logprobs=True))).completions == [Completion("4", [19], [-0.5])]


def continues(handler: Handler, request: dict[str, Any]) -> None:
    """A server that continues a partial assistant turn. Its prompt is then shorter by the end of that turn."""
    begun = request.get("continue_final_message", False)
    text = " of course" if begun else "Thought: of course"
    completions(text, prompt_tokens=20 - 5 * begun)(handler, request)


async def test_a_prefix_is_continued(server: Server) -> None:
    generation = await ask(server, continues, prefix="Thought: I am")
    assert generation.completions == [Completion(" of course")]
    assert [request.get("continue_final_message") for request in server.requests] == [True, None, True]
    assert server.requests[-1]["messages"][-1] == {"role": "assistant", "content": "Thought: I am"}
    assert server.requests[-1]["add_generation_prompt"] is False


CONTINUATIONS = [
    ("Thought: I am done.", " done."),
    ("  Thought:  I\nam done.", " done."),
    ("I will not.", "\nI will not."),
]


@pytest.mark.parametrize("reply, text", CONTINUATIONS)
@pytest.mark.parametrize("refuses", [True, False])
async def test_a_prefix_is_asked_for_where_it_cannot_be_given(
    server: Server, reply: str, text: str, refuses: bool
) -> None:
    def answer(handler: Handler, request: dict[str, Any]) -> None:
        if refuses and "continue_final_message" in request:
            return status(400, "Unrecognized argument")(handler, request)
        return completions(reply, token_ids=[1, 2])(handler, request)

    generation = await ask(server, answer, prefix="Thought: I am")
    assert generation.completions == [Completion(text)]
    last = server.requests[-1]["messages"][-1]
    assert last["role"] == "user"
    assert last["content"].startswith("What is 6 times 7?\n\nBegin your reply")
    assert last["content"].endswith("\nThought: I am")


@pytest.mark.parametrize("url", ["http://h:port/v1", "http://h/\x1b"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError, match="the URL of the model m is not valid"):
        OpenAIModel(url, "m")


@pytest.mark.parametrize("n", [0, -1])
async def test_n_must_be_positive(server: Server, n: int) -> None:
    with pytest.raises(ValueError, match="give at least 1"):
        await ask(server, completions("42"), n=n)


def streamed(*pieces: str, end: bool = True) -> Answer:
    """Respond with a stream of these pieces. Without an end, close the connection after them."""
    deltas: list[dict[str, Any]] = [{"index": 0, "delta": {"content": piece}, "token_ids": [7]} for piece in pieces]
    if end:
        deltas.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    known = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [known | {"choices": [delta]} for delta in deltas]
    usage = known | {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}}
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in (*chunks, *([usage] if end else []))]
    return raw("".join([*events, *(["data: [DONE]\n\n"] if end else [])]), "text/event-stream")


async def stream(server: Server, *script: Answer, **arguments: Any) -> tuple[Generation, list[str]]:
    server.script, shown = list(script), list[str]()
    model = model_of(server)
    try:
        return await model.stream(QUESTION, Sampling(), shown.append, **arguments), shown
    finally:
        await model.close()


async def test_a_stream_is_shown_piece_by_piece(server: Server) -> None:
    generation, shown = await stream(server, streamed("4", "2", "!"))
    assert shown == ["4", "2", "!"]
    assert generation == Generation([Completion("42!", [7, 7, 7])], None, 10, 5)
    assert server.requests[0]["stream"] is True


def chunk(content: Any, **choice: Any) -> dict[str, Any]:
    return {"id": "1", "choices": [{"index": 0, "delta": {"content": content}} | choice]}


SAID = chunk("42", finish_reason="stop")
STREAMS: dict[str, list[dict[str, Any]]] = {
    "choices null": [SAID, {"choices": None}],
    "delta null": [SAID, {"choices": [{"index": 0, "delta": None}]}],
    "choices empty": [SAID, {"choices": []}],
    "no choices": [SAID, {"usage": {"prompt_tokens": 1}}],
    "no delta": [chunk("42"), {"choices": [{"index": 0, "finish_reason": "stop"}]}],
    "no finish reason, but the usage": [chunk("42"), {"choices": [], "usage": {"prompt_tokens": 1}}],
    "empty usage": [SAID, {"choices": [], "usage": {}}],
    "empty finish reasons": [
        chunk("4", finish_reason=""),
        chunk("2", finish_reason=""),
        chunk("", finish_reason="stop"),
    ],
    "a ping": [{}, SAID],
    "logprobs of an older form": [chunk("42", finish_reason="stop", logprobs={"tokens": ["42"]})],
    "content null": [chunk(None), SAID],
    "parts": [chunk([{"type": "text", "text": "4"}, {"type": "text", "text": "2"}], finish_reason="stop")],
    "one part": [chunk({"type": "text", "text": "42"}, finish_reason="stop")],
    "a null choice": [chunk("42"), {"choices": [None]}, chunk("", finish_reason="stop")],
    "a message": [{"choices": [{"index": 0, "message": {"content": "42"}, "finish_reason": "stop"}]}],
    "null": [json.loads("null"), SAID],
    "odd usage": [SAID, {"choices": [], "usage": "none"}],
}


@pytest.mark.parametrize("chunks", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("line", ["\n", "\r\n"])
async def test_streams_of_many_servers(server: Server, chunks: list[dict[str, Any]], line: str) -> None:
    events = [f"data: {json.dumps(chunk)}{2 * line}" for chunk in chunks]
    body = "".join([f": a comment{2 * line}", *events, f"data: [DONE]{2 * line}"])
    generation, shown = await stream(server, raw(body, "text/event-stream"))
    assert (generation.completions[0].text, "".join(shown)) == ("42", "42")


def events(*chunks: dict[str, Any], end: str = "\n\n") -> str:
    return "".join(f"data: {json.dumps(chunk)}{end}" for chunk in chunks)


FOUR, TWO, DONE = chunk("4"), chunk("2"), "data: [DONE]\n\n"
INDENTED = "".join(f"data: {line}\n" for line in json.dumps(SAID, indent=1).split("\n"))
BYTES: dict[str, str] = {
    "no finish reason, but [DONE]": events(FOUR, TWO) + DONE,
    "[DONE] and no usage": events(FOUR, TWO) + "data:[DONE]\r\n\r\n" + events(chunk("!")),
    "[DONE] without a line end": events(FOUR, TWO) + "data: [DONE]",
    "empty data": f"data:\n\n{events(FOUR)}data: \n\n{events(TWO)}data\n\n{DONE}",
    "no data": f"event: ping\n\nretry: 3000\n\nid: 1\n{events(FOUR)}\n\n{events(TWO)}\n{DONE}",
    "a byte order mark": f"\ufeff{events(FOUR, TWO)}{DONE}",
    "CR": (events(FOUR, TWO) + DONE).replace("\n", "\r"),
    "mixed line ends": events(FOUR, end="\r\n\n") + events(TWO, end="\r\r\n") + DONE,
    "an event of several lines": f"{INDENTED}\n{DONE}",
    "no blank lines": events(FOUR, TWO, end="\n") + DONE,
    "no blank line at the end": events(SAID, end=""),
    "no space": (events(FOUR, TWO) + DONE).replace("data: ", "data:"),
    "JSON lines": json.dumps(FOUR) + "\n" + json.dumps(chunk("2", finish_reason="stop")),
    "one JSON object": json.dumps({"choices": [{"message": {"content": "42"}, "finish_reason": "stop"}]}),
    "an error that is null": events(SAID | {"error": None}) + DONE,
}


@pytest.mark.parametrize("body", BYTES.values(), ids=BYTES)
@pytest.mark.parametrize("size", [1, 7, 10**6])
async def test_the_bytes_of_streams(server: Server, body: str, size: int) -> None:
    def answer(handler: Handler, request: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
        handler.end_headers()
        sent = body.encode()
        for at in range(0, len(sent), size):
            handler.wfile.write(sent[at : at + size])
        handler.close_connection = True

    server.script = [answer]
    model, shown = model_of(server, retries=0), list[str]()
    generation = await model.stream(QUESTION, Sampling(), shown.append)
    assert (generation.completions[0].text, "".join(shown)) == ("42", "42")
    await model.close()


async def test_halves_of_a_character_in_a_stream(server: Server) -> None:
    """As JSON escapes them, one in each chunk. What is shown can be printed."""
    chunks = [chunk("\ud83d"), chunk("\ude00", finish_reason="stop")]
    events = "".join(f"data: {json.dumps(each)}\n\n" for each in chunks)
    generation, shown = await stream(server, raw(events, "text/event-stream"))
    assert generation.completions[0].text == "\U0001f600"
    "".join(shown).encode()


async def test_a_server_that_does_not_stream(server: Server) -> None:
    generation, shown = await stream(server, completions("42"))
    assert (generation.completions[0].text, shown, generation.prompt_tokens) == ("42", ["42"], 10)


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}  # as Mistral sends it
CHOICES: dict[str, tuple[dict[str, Any], str, str]] = {
    "no index": ({"message": {"content": "42"}, "finish_reason": "stop"}, "42", ""),
    "no finish reason": ({"index": None, "message": {"content": "42"}}, "42", ""),
    "parts": ({"message": {"content": ["4", {"type": "text", "text": "2"}]}}, "42", ""),
    "thinking": ({"message": {"content": [THINKING, {"type": "text", "text": "42"}]}}, "42", "Hm."),
    "thinking as text": ({"message": {"content": [{"type": "thinking", "thinking": "Hm."}, "42"]}}, "42", "Hm."),
    "a refusal": ({"message": {"content": None, "refusal": "I won't."}}, "I won't.", ""),
    "an odd reason": ({"message": {"content": "42"}, "finish_reason": 1}, "42", ""),
    "a text as index": ({"index": "0", "message": {"content": "42"}}, "42", ""),
    "one part": ({"message": {"content": {"type": "text", "text": "42"}}}, "42", ""),
    "thinking beside the text": ({"message": {"content": "42", "thinking": "Hm."}}, "42", "Hm."),
    "no logprobs": ({"message": {"content": "42"}, "logprobs": {"content": [{"logprob": None}]}}, "42", ""),
}


@pytest.mark.parametrize("choice, text, reasoning", CHOICES.values(), ids=CHOICES)
async def test_choices_of_many_servers(server: Server, choice: dict[str, Any], text: str, reasoning: str) -> None:
    body = json.dumps({"choices": [choice], "usage": {}})
    [completion] = (await ask(server, raw(body), sampling=Sampling(logprobs=True))).completions
    assert (completion.text, completion.reasoning) == (text, reasoning)
    assert isinstance(completion.finish_reason, str) and completion.logprobs is None


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
async def test_reasons_of_a_completion_that_was_cut(server: Server, reason: str) -> None:
    generation = await ask(server, completions("42", finish_reason=reason))
    assert generation.completions[0].finish_reason == "length"


@pytest.mark.parametrize("usage", ["none", {"prompt_tokens": 10.0}, {"prompt_tokens": "10"}, {"prompt_tokens": -1}, 5])
async def test_odd_usage_is_no_failure(server: Server, usage: Any) -> None:
    body = {"choices": [{"message": {"content": "42"}}], "usage": usage}
    generation = await ask(server, raw(json.dumps(body)))
    assert type(generation.prompt_tokens) is int and generation.prompt_tokens >= 0


FAILED = {"message": "no provider", "code": 503}
ERRORS: dict[str, Answer] = {
    "an error": raw(json.dumps({"error": FAILED})),
    "a text": raw('{"error": "no provider"}'),
    "a choice": raw(json.dumps({"choices": [{"message": {"content": ""}, "finish_reason": "error", "error": FAILED}]})),
    **{
        f"a stream: {name}": raw(f"{event}\n\n", "text/event-stream")
        for name, event in {
            "an error": f"data: {json.dumps({'error': FAILED})}",
            "a text": 'data: {"error": "no provider"}',
            "a list": f"data: {json.dumps([{'error': FAILED}])}",
            "vLLM's": f"data: {json.dumps({'object': 'error'} | FAILED)}",
            "an event": f"event: error\ndata: {json.dumps(FAILED)}",
            "an event in plain words": "event: error\ndata: no provider",
            "an event with a problem": 'event: error\ndata: {"status": 503, "detail": "no provider"}',
            "after a piece": f"data: {json.dumps(chunk('4'))}\n\ndata: {json.dumps({'error': FAILED})}\n\ndata: [DONE]",
            "with a choice": f"data: {json.dumps(chunk('', finish_reason='error') | {'error': FAILED})}",
            "without data:": f"data: {json.dumps(chunk('4'))}\n\n{json.dumps({'error': FAILED})}",
            "its kind and its words": 'data: {"error": "Unavailable", "message": "no provider"}',
            "plain words": "data: no provider",
        }.items()
    },
}


@pytest.mark.parametrize("answer", ERRORS.values(), ids=ERRORS)
async def test_an_error_in_a_good_response_is_said(server: Server, answer: Answer) -> None:
    server.script = [answer]
    model = model_of(server, retries=0)
    with pytest.raises(ModelError, match=r"its response is not a chat completion \(no provider\)"):
        await model.stream(QUESTION, Sampling(), lambda text: None)
    await model.close()


LASTING_IN_A_STREAM = {
    "401": ({"message": "bad key", "code": 401}, "rejects the API key: bad key. Set OPENAI_API_KEY"),
    "a text as status": ({"message": "hm", "status": "422"}, "rejects the request: hm"),
    "no money": ({"message": "pay first", "type": "insufficient_quota"}, "rejects the request: pay first"),
}


@pytest.mark.parametrize("error, message", LASTING_IN_A_STREAM.values(), ids=LASTING_IN_A_STREAM)
@pytest.mark.parametrize("form", ["data: {}\n\n", "event: error\ndata: {}\n\n"])
async def test_a_lasting_error_in_a_stream_is_an_error_at_once(
    server: Server, error: dict[str, Any], message: str, form: str
) -> None:
    with pytest.raises(ModelError, match=message):
        await stream(server, raw(form.format(json.dumps({"error": error})), "text/event-stream"))
    assert len(server.requests) <= 2


async def test_a_prompt_that_is_too_long_for_a_stream(server: Server) -> None:
    error = {"error": {"message": "This model's maximum context length is 2048 tokens.", "code": 400}}
    generation, _ = await stream(server, raw(events(error), "text/event-stream"))
    assert generation.completions == [Completion("", [], None, "length")]


NO_COMPLETIONS = {
    '{"choices": [null]}': "a choice has no message",
    '{"choices": [{"index": 0, "text": "42"}]}': "a choice has no message",
    '{"choices": []}': "it has no choices",
    "[1]": "it is not an object",
    "null": "it is not an object",
    "<html>Welcome</html>": "it is not JSON: <html>Welcome",
    '{"choices":' + "[" * 10**5: "it is not JSON",
}


@pytest.mark.parametrize("body", NO_COMPLETIONS)
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_is_wrong_with_a_response_is_said(server: Server, body: str, streamed: bool) -> None:
    server.script = [raw(body)]
    model = model_of(server, retries=0)
    with pytest.raises(ModelError, match=re.escape(NO_COMPLETIONS[body])):
        await (model.stream(QUESTION, Sampling(), print) if streamed else model.generate(QUESTION, Sampling()))
    await model.close()


async def test_a_server_that_refuses_stream_options_streams_without(server: Server) -> None:
    refusal = json.dumps({"detail": [{"loc": ["body", "stream_options"], "msg": "extra fields not permitted"}]})

    def answer(handler: Handler, request: dict[str, Any]) -> None:
        if "stream_options" in request:
            handler.send(422, refusal)
        else:
            streamed("4", "2")(handler, request)

    generation, _ = await stream(server, answer)
    assert generation.completions[0].text == "42"


async def test_a_stream_that_breaks_off_is_asked_for_again(server: Server) -> None:
    generation, shown = await stream(server, streamed("4", end=False), status(500), streamed("4", "2"))
    assert shown == ["4", "4", "2"], "what was shown is not taken back"
    assert generation.completions[0].text == "42"


async def test_a_server_that_cannot_continue_a_turn_shows_what_comes_after_the_prefix(server: Server) -> None:
    refused = status(400, "continue_final_message is not known")
    generation, shown = await stream(server, refused, completions("Thought: I multiply."), prefix="Thought:")
    assert shown == [generation.completions[0].text] == [" I multiply."]
    assert "stream" not in server.requests[-1]
