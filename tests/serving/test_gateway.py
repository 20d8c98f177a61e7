"""The recording gateway: real clients and agents over real HTTP, and the trajectories that they leave."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from agentdistill import Task, Trajectory, TrajectoryError, read_trajectories, regrade, rollout, select
from agentdistill.models.loading import opened
from agentdistill.models.model import Generation, Message, Model, ModelError, Sampling
from agentdistill.models.scripted import ScriptedModel
from agentdistill.trajectories import steps_given
from scripted_server import Server, hang_up, raw, status

pytest.importorskip("uvicorn", reason="needs agentdistill[serve]")
from agentdistill.serving.gateway import Gateway

ASKED = [{"role": "user", "content": "What is 6 * 7?"}]


@contextmanager
def recording(model: Model | str, output: Path, **options: Any) -> Iterator[Gateway]:
    with opened(model) as loaded, Gateway(loaded, output, port=0, **options) as gateway:
        yield gateway


def client(gateway: Gateway, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(**{"base_url": gateway.url, "api_key": "none", "max_retries": 0} | options)


def says(*texts: str) -> ScriptedModel:
    """A model whose reply depends on how many replies the conversation has."""
    return ScriptedModel("m", lambda messages, prefix, index: texts[sum(m.role == "assistant" for m in messages)])


def shape(trajectory: Trajectory) -> tuple[list[str], int]:
    """The texts of the winners, and how many of them were given."""
    return [step.candidates[step.winner].text for step in trajectory.steps], steps_given(trajectory)


# ---- the model's ids and log probabilities ---------------------------------------------------------


def test_exact_ids_and_logprobs_of_a_conversation(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    with recording(f"transformers:{tiny_model}", tmp_path / "t.jsonl") as gateway, client(gateway) as asking:
        [served] = asking.models.list().data
        messages: list[Any] = list(ASKED)
        for turn in range(3):
            reply = asking.chat.completions.create(
                model=served.id,
                messages=messages,
                max_tokens=8,
                temperature=0 if turn == 0 else 1,
                seed=turn,
                n=2 if turn == 1 else 1,
                logprobs=True,
                extra_body={"return_token_ids": True} if turn == 2 else None,
            )
            choice = reply.choices[-1]
            messages += [
                {"role": "assistant", "content": choice.message.content},
                {"role": "user", "content": "Go on."},
            ]
        told = choice.logprobs.content
    [trajectory] = read_trajectories(tmp_path / "t.jsonl")
    assert [(len(step.candidates), step.winner) for step in trajectory.steps] == [(1, 0), (2, 1), (1, 0)]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for number, step in enumerate(trajectory.steps):
        prompt = tokenizer.apply_chat_template(messages[: 2 * number + 1], tokenize=False, add_generation_prompt=True)
        assert step.prompt_token_ids == tokenizer(prompt, add_special_tokens=False)["input_ids"]
        for candidate in step.candidates:
            decoded = tokenizer.decode(candidate.token_ids, skip_special_tokens=True)
            assert decoded.startswith(candidate.text) and candidate.text  # it may end within a character
            assert len(candidate.logprobs or ()) == len(candidate.token_ids or ()) > 0
    last = trajectory.steps[2].candidates[0]
    assert (choice.token_ids, reply.prompt_token_ids) == (last.token_ids, trajectory.steps[2].prompt_token_ids)
    assert [token.logprob for token in told] == pytest.approx(last.logprobs)
    assert (trajectory.outcome, trajectory.model) == ("cut_completion", served.id)
    assert sum(trajectory.usage) == sum(
        len(step.prompt_token_ids or ()) + sum(len(candidate.token_ids or ()) for candidate in step.candidates)
        for step in trajectory.steps
    )


def test_a_stream_says_the_same(tiny_model: Path, tmp_path: Path) -> None:
    with recording(f"transformers:{tiny_model}", tmp_path / "t.jsonl") as gateway, client(gateway) as asking:
        asked: Any = {"model": gateway.name, "messages": ASKED, "max_tokens": 8, "temperature": 0}
        whole = asking.chat.completions.create(**asked)
        chunks = asking.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        *pieces, last = list(chunks)
    [choice] = whole.choices
    assert choice.logprobs is None and not hasattr(choice, "token_ids")
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == choice.message.content
    assert pieces[0].choices[0].delta.role == "assistant" and len({piece.id for piece in [*pieces, last]}) == 1
    assert (pieces[-1].choices[0].finish_reason, last.usage) == (choice.finish_reason, whole.usage)
    first, second = read_trajectories(tmp_path / "t.jsonl")
    assert first.steps[0].candidates == second.steps[0].candidates
    assert second.task_id == f"{first.task_id}#2" and second.sampling["samples"] == 2


def test_a_gateway_before_a_server_records_what_the_server_records(tiny_model: Path, tmp_path: Path) -> None:
    with (
        recording(f"transformers:{tiny_model}", tmp_path / "behind.jsonl") as behind,
        recording(f"openai:{behind.url},{behind.url}:{behind.name}", tmp_path / "before.jsonl") as before,
        client(before) as asking,
    ):
        asking.chat.completions.create(model=before.name, messages=ASKED, max_tokens=8, n=2, seed=1)
    [theirs], [ours] = read_trajectories(tmp_path / "behind.jsonl"), read_trajectories(tmp_path / "before.jsonl")
    assert ours.steps[0].candidates == theirs.steps[0].candidates and ours.steps[0].candidates[0].logprobs
    assert ours.steps[0].prompt_token_ids == theirs.steps[0].prompt_token_ids


# ---- agents ----------------------------------------------------------------------------------------

SMOL_CODE = (
    "Thought: I compute.\n<code>\nx = 6 * 7\nprint(x)\n</code>",
    "Thought: I answer.\n<code>\nfinal_answer(42)\n</code>",
)
SMOL_CALLS = (
    'I look.\n<tool_call>\n{"name": "multiply", "arguments": {"a": 6, "b": 7}}\n</tool_call>',
    '<tool_call>\n{"name": "final_answer", "arguments": {"answer": "42"}}\n</tool_call>',
)


def smolagents_agent(kind: str, gateway: Gateway, **options: Any) -> Any:
    smolagents = pytest.importorskip("smolagents", reason="needs agentdistill[smolagents]")

    @smolagents.tool  # type: ignore[untyped-decorator]
    def multiply(a: int, b: int) -> int:
        """Multiply two numbers.

        Args:
            a: The first.
            b: The second.
        """
        return a * b

    model = smolagents.OpenAIServerModel(gateway.name, api_base=gateway.url, api_key="none", **options)
    return getattr(smolagents, kind)(tools=[multiply], model=model, verbosity_level=0)


AGENTS: dict[str, tuple[Callable[..., ScriptedModel], tuple[str, ...], list[str]]] = {
    "CodeAgent": (says, SMOL_CODE, ["x = 6 * 7\nprint(x)", "final_answer(42)"]),
    "ToolCallingAgent": (says, SMOL_CALLS, ["print(multiply(a=6, b=7))", 'final_answer(answer="42")']),
}


@pytest.mark.parametrize("kind", AGENTS)
def test_an_agent_of_smolagents_leaves_a_trajectory_to_train_on(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    from agentdistill.training.examples import load_tokenizer, to_examples

    make, script, code = AGENTS[kind]
    tasks = [Task("six", "What is 6 * 7?", "42", kind="math"), Task("other", "What is 6?", "6")]
    with recording(make(*script), tmp_path / "t.jsonl", tasks=tasks) as gateway:
        assert str(smolagents_agent(kind, gateway).run("What is 6 * 7?")) == "42"
    [trajectory] = read_trajectories(tmp_path / "t.jsonl")
    assert [step.candidates[0].action.code.strip() for step in trajectory.steps] == code  # type: ignore[union-attr]
    assert (trajectory.task_id, trajectory.reference) == ("six", "42")
    assert (trajectory.outcome, trajectory.answer) == ("final_answer", "42")
    assert "42" in trajectory.steps[0].message
    regrade(tmp_path / "t.jsonl", output=tmp_path / "graded.jsonl", progress=False)
    kept = select(tmp_path / "graded.jsonl", tmp_path / "kept.jsonl").kept
    assert [one.task_id for one in kept] == ["six"]
    made = to_examples(kept, load_tokenizer(str(tiny_model)), max_length=4096)
    assert len(made.examples) == 1 and sum(made.examples[0]["completion_mask"]) > 0


def test_an_agent_in_our_form_keeps_its_sampled_ids_in_training(tiny_model: Path, tmp_path: Path) -> None:
    from agentdistill.training.examples import load_tokenizer, to_examples

    with recording(f"transformers:{tiny_model}", tmp_path / "t.jsonl") as gateway, client(gateway) as asking:
        for seed in range(16):
            asking.chat.completions.create(model=gateway.name, messages=ASKED, max_tokens=1, seed=seed)
    trajectories = read_trajectories(tmp_path / "t.jsonl")
    whole = [one for one in trajectories if one.steps[0].candidates[0].text.strip()]  # others end within a character
    made = to_examples(whole, load_tokenizer(str(tiny_model)), prompt="")
    assert made.recorded == len(whole) > 0
    for trajectory, example in zip(whole, made.examples, strict=True):
        step = trajectory.steps[0]
        sampled = [*(step.prompt_token_ids or ()), *(step.candidates[0].token_ids or ())]
        assert example["input_ids"][: len(sampled)] == sampled


# ---- sessions --------------------------------------------------------------------------------------

A, B, C = ({"role": "user", "content": text} for text in ("A?", "B?", "C?"))


def r(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


ASKS_A, AFTER_1, AFTER_2 = [A], [A, r("1"), B], [A, r("1"), B, r("2"), C]
# What is asked, by which session -> the trajectories: the texts, and how many of them were given.
SESSIONS: dict[str, tuple[list[tuple[str, list[dict[str, str]]]], list[tuple[list[str], int]]]] = {
    "a conversation": ([("", ASKS_A), ("", AFTER_1), ("", AFTER_2)], [(["1", "2", "3"], 0)]),
    "two at once": ([("", ASKS_A), ("", [B]), ("", AFTER_1), ("", [B, r("1"), C])], [(["1", "2"], 0)] * 2),
    "twice the same": ([("", ASKS_A)] * 2 + [("", AFTER_1)] * 2, [(["1", "2"], 0)] * 2),
    "branches": ([("", ASKS_A), ("", AFTER_1), ("", [A, r("1"), C])], [(["1", "2"], 0), (["1", "2"], 1)]),
    "a reply with a stop string": ([("", ASKS_A), ("", [A, r(" 1 </code>"), B])], [(["1", "2"], 0)]),
    "without its thinking": ([("", ASKS_A), ("", [A, r("<think>hm</think>1"), B])], [(["1", "2"], 0)]),
    "with turns of others": ([("", [A, r("x"), B]), ("", [A, r("x"), B, r("2"), C])], [(["x", "2", "3"], 1)]),
    "another reply": ([("", ASKS_A), ("", [A, r("other"), B])], [(["1"], 0), (["other", "2"], 1)]),
    "a turn to go on": ([("", ASKS_A), ("", [A, r("1")])], [(["1"], 0), (["1\n2"], 1)]),
    "two sessions": ([("x", ASKS_A), ("y", ASKS_A), ("x", AFTER_1)], [(["1", "2"], 0), (["1"], 0)]),
    "a session and none": ([("x", ASKS_A), ("", AFTER_1)], [(["1"], 0), (["1", "2"], 1)]),
    "two conversations of a session": ([("x", ASKS_A), ("x", [B])], [(["1"], 0), (["1"], 0)]),
}


@pytest.mark.parametrize("case", SESSIONS)
def test_which_requests_are_one_trajectory(case: str, tmp_path: Path) -> None:
    asked, expected = SESSIONS[case]
    with recording(says("1", "2", "3"), tmp_path / "t.jsonl") as gateway, client(gateway) as asking:
        for session, messages in asked:
            asking.chat.completions.create(model="m", messages=messages, extra_headers={"X-Session-ID": session})
    assert sorted(map(shape, read_trajectories(tmp_path / "t.jsonl"))) == sorted(expected)


NAMES: dict[str, dict[str, Any]] = {
    "header": {"extra_headers": {"X-Session-ID": "s"}, "user": "u"},
    "metadata": {"metadata": {"session_id": "s"}, "user": "u"},
    "user": {"user": "s"},
}


@pytest.mark.parametrize("how", NAMES)
def test_a_session_has_a_name_and_an_end(how: str, tmp_path: Path) -> None:
    with recording(says("1"), tmp_path / "t.jsonl") as gateway, client(gateway) as asking:
        raw = asking.chat.completions.with_raw_response.create(model="m", messages=ASKED, **NAMES[how])
        assert raw.headers["X-Session-ID"] == "s"
        ended = httpx2.post(f"{gateway.url}/sessions/s", json={"answer": "42", "score": 0.5, "task_id": "t/1"})
        assert ended.json() == {"session": "s", "trajectories": 1}
        [trajectory] = read_trajectories(tmp_path / "t.jsonl")  # while it is served
        again = httpx2.post(f"{gateway.url}/sessions/s", json={})
        wrong = httpx2.post(f"{gateway.url}/sessions/s", json={"reward": 1})
    assert (trajectory.task_id, trajectory.answer, trajectory.score, trajectory.grader) == ("t/1", "42", 0.5, "client")
    assert trajectory.sampling["session"] == "s"
    assert (again.status_code, wrong.status_code) == (404, 400)


def test_an_idle_conversation_is_written_and_can_go_on(tmp_path: Path) -> None:
    with recording(says("1", "2"), tmp_path / "t.jsonl", idle_seconds=0.1) as gateway, client(gateway) as asking:
        asking.chat.completions.create(model="m", messages=[A])
        while not gateway.written:
            time.sleep(0.01)
        assert list(map(shape, read_trajectories(tmp_path / "t.jsonl"))) == [(["1"], 0)]
        asking.chat.completions.create(model="m", messages=[A, r("1"), B])
    assert list(map(shape, read_trajectories(tmp_path / "t.jsonl"))) == [(["1"], 0), (["1", "2"], 1)]


def test_a_file_is_continued_by_the_same_model_only(tmp_path: Path) -> None:
    for _ in range(2):
        with recording(says("1"), tmp_path / "t.jsonl") as gateway, client(gateway) as asking:
            asking.chat.completions.create(model="m", messages=ASKED)
    assert [one.task_id.partition("#")[2] for one in read_trajectories(tmp_path / "t.jsonl")] == ["", "2"]
    with (
        pytest.raises(TrajectoryError, match="other settings"),
        recording(ScriptedModel("x", str), tmp_path / "t.jsonl"),
    ):
        pass


# ---- errors ----------------------------------------------------------------------------------------


def at(server: Server) -> str:
    return f"openai:http://127.0.0.1:{server.server_port}/v1:small"


def reply(**message: Any) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant"} | message}]})


# What a server answers -> what the client reads.
BROKEN = {
    "a list": (raw("[]"), "not a chat completion"),
    "no JSON": (raw("<html>"), "not a chat completion"),
    "nested too deeply": (raw('{"choices":' + "[" * 10**5), "not a chat completion"),
    "no choices": (raw('{"choices": []}'), "choices"),
    "ids that are none": (raw('{"choices": [{"message": {}, "token_ids": ["x"]}]}'), "token_ids"),
    "a call of nothing": (raw(reply(tool_calls=[{"id": "1"}])), "cannot be recorded: .*a call without a function"),
    "nothing": (hang_up, "cannot be reached"),
    "an error": (status(500, "on fire"), "on fire"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_the_errors_of_a_server_are_passed_on(case: str, server: Server, tmp_path: Path) -> None:
    answer, said = BROKEN[case]
    server.script = [answer, status(429, "slow down", kind="rate_limit_exceeded")]
    with recording(at(server), tmp_path / "t.jsonl") as gateway, client(gateway) as asking:
        with pytest.raises(openai.InternalServerError, match=said):
            asking.chat.completions.create(model="small", messages=ASKED)
        with pytest.raises(openai.RateLimitError, match="slow down") as refused:
            asking.chat.completions.create(model="small", messages=ASKED)
        assert refused.value.code == "rate_limit_exceeded"
    assert read_trajectories(tmp_path / "t.jsonl") == []


CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}


def test_a_server_gets_the_request_of_the_client_and_no_more_than_it_takes(server: Server, tmp_path: Path) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    completion = {"id": "i", "object": "chat.completion", "created": 1, "model": "small", "choices": [
        {"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}
    ]}  # fmt: skip
    server.script = [status(400, "unknown parameter: return_token_ids"), raw(json.dumps(completion))]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    with (
        recording(f"openai:http://127.0.0.1:{server.server_port}/v1:small", tmp_path / "t.jsonl") as gateway,
        client(gateway) as asking,
    ):
        for messages in (ASKED, [*ASKED, message, {"role": "tool", "tool_call_id": "c1", "content": "found"}]):
            for stream in (False, True):
                asked: Any = {
                    "model": "small",
                    "messages": messages,
                    "tools": tools,
                    "response_format": {"type": "text"},
                }
                if not stream:
                    got = asking.chat.completions.create(**asked)
                else:
                    with asking.chat.completions.stream(**asked) as pieces:
                        got = pieces.get_final_completion()
                assert got.choices[0].message.tool_calls[0].function.name == "look"
    sent = [
        {name: request.get(name) for name in ("tools", "stream", "logprobs", "return_token_ids")}
        for request in server.requests
    ]
    assert sent[0] == {"tools": tools, "stream": None, "logprobs": True, "return_token_ids": True}
    assert sent[1:] == [{"tools": tools, "stream": None, "logprobs": True, "return_token_ids": None}] * 4
    trajectories = read_trajectories(tmp_path / "t.jsonl")
    assert [len(one.steps) for one in trajectories] == [2, 2]
    assert trajectories[0].steps[0].message == "Observation:\nfound"


class Failing(ScriptedModel):
    async def generate(
        self, messages: Sequence[Message], sampling: Sampling, *, n: int = 1, prefix: str = ""
    ) -> Generation:
        raise ModelError("the key is SECRET")


# What is wrong with a request to a model in this process -> its fields, the status, and the error's words.
WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "another model": ({"model": "x"}, 404, "only 'm'"),
    "no messages": ({"messages": []}, 400, "messages"),
    "an unknown role": ({"messages": [{"role": "x", "content": "?"}]}, 400, "messages.0.role"),
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "not text"),
    "a call without a function": ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, 400, "function"),
    "JSON": ({"response_format": {"type": "json_object"}}, 400, "response_format is not supported"),
    "a certain call": ({"tool_choice": {"type": "function"}}, 400, "tool_choice is not supported"),
    "too hot": ({"temperature": -1}, 400, "temperature"),
    "too many": ({"n": 1000}, 400, "n: "),
    "no number": ({"max_tokens": "many"}, 400, "max_tokens"),
    "a failing model": ({}, 502, "the model failed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_answered_is_an_error_of_the_protocol(case: str, tmp_path: Path) -> None:
    sent, code, said = WRONG[case]
    with recording(Failing("m", str), tmp_path / "t.jsonl") as gateway:
        response = httpx2.post(f"{gateway.url}/chat/completions", json={"model": "m", "messages": ASKED} | sent)
    error = response.json()["error"]
    assert response.status_code == code and said in error["message"] and "SECRET" not in error["message"]


def test_the_key_is_asked_for(tmp_path: Path) -> None:
    with recording(says("1"), tmp_path / "t.jsonl", api_key="k") as gateway:
        for path in ("chat/completions", "sessions/s"):
            assert httpx2.post(f"{gateway.url}/{path}", json={"model": "m", "messages": ASKED}).status_code == 401


# ---- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_writes_everything_at_its_end(number: signal.Signals, tmp_path: Path) -> None:
    rollout([Task("t", "What is 6 * 7?")], says("<answer>42</answer>"), output=tmp_path / "r.jsonl", progress=False)
    [recorded] = read_trajectories(tmp_path / "r.jsonl")
    arguments = ["--model", "recorded:r.jsonl", "--name", "a", "--port", "0", "-o", "t.jsonl"]
    command = [sys.executable, "-m", "agentdistill", "record", *arguments]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"AGENTDISTILL_API_KEY": "k"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as gateway:
        _, said, url = (begun := gateway.stderr.readline().strip()).partition("recording a at ")
        assert said, begun
        with openai.OpenAI(base_url=url, api_key="k", max_retries=0) as asking:
            messages: Any = [{"role": role, "content": content} for role, content in recorded.messages]
            asking.chat.completions.create(model="a", messages=messages)
        gateway.send_signal(number)
        assert (gateway.wait(60), gateway.stdout.read()) == (0, "1 trajectories in t.jsonl\n")
    [trajectory] = read_trajectories(tmp_path / "t.jsonl")
    assert (trajectory.question, trajectory.answer, trajectory.outcome) == ("What is 6 * 7?", "42", "final_answer")
