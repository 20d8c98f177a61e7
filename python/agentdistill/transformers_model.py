"""A model run in this process by transformers: no server, no compiler, quick for small students, on a CPU too.

All requests that wait are worked on together: a row per completion, each with its own length, sampling and stop
strings. A row leaves the batch when it ends and another takes its place, so nobody waits for the slowest (continuous
batching). Rows write their keys and values into slots of one preallocated cache; nothing is padded or copied from
step to step.

Decoders with full attention are supported (Qwen2, Qwen3, Llama, ...). Not here: training, and serving large models
(vLLM).
"""

import asyncio
import random
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import Cache, CacheLayerMixin

from agentdistill.model import (
    Completion,
    Generation,
    Message,
    ModelError,
    Sampling,
    cut_at_stop,
    model_files,
    render_prompt,
    repeated,
)


class TransformersModel:
    """A causal language model with a chat template, from a folder or a hub; a PEFT adapter is merged into its base."""

    def __init__(self, path_or_id: str, *, batch_size: int = 128, device: str | None = None) -> None:
        """``batch_size``: most completions worked on at once. ``device``: by default the GPU if there is one.

        Raises ModelError for a model that is not there, or that this engine cannot run.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: give at least 1")
        self.name = path_or_id
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model, tokenizer = _load(path_or_id, device)
        self._decoder = _Decoder(model, tokenizer, batch_size, path_or_id)
        self._thread: threading.Thread | None = None

    async def generate(
        self, messages: Sequence[Message], sampling: Sampling, *, n: int = 1, prefix: str = ""
    ) -> Generation:
        if n < 1:
            raise ValueError(f"n is {n}: give at least 1")
        if n > 1 and not sampling.temperature:
            return repeated(await self.generate(messages, sampling, prefix=prefix), n)
        if self._thread is None:
            self._thread = threading.Thread(target=self._decoder.run, name="transformers-model", daemon=True)
            self._thread.start()
        request = _Request(list(messages), sampling, n, prefix)
        self._decoder.submit(request)
        return await asyncio.wrap_future(request.result)

    async def close(self) -> None:
        self._decoder.stop()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)


@dataclass(eq=False)
class _Request:
    """One call of ``generate``; ``result`` is set when its last completion has ended."""

    messages: list[Message]
    sampling: Sampling
    n: int
    prefix: str
    result: Future[Generation] = field(default_factory=Future)
    prompt: list[int] = field(default_factory=list)
    done: dict[int, Completion] = field(default_factory=dict)


@dataclass(eq=False)
class _Row:
    """One completion under way."""

    request: _Request
    index: int
    limit: int
    """Most tokens it may still be given, by ``max_tokens`` and the context."""
    random: random.Random
    last: int
    """The token that is read next."""
    length: int
    """Tokens read so far: the row's keys and values fill this much of its slot."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class _Decoder:
    """The worker: it alone touches the model and the tokenizer, in a thread of its own."""

    _PREFILL_TOKENS = 16_384
    """Most tokens, padding included, of one forward pass over new prompts; bounds its memory."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int, name: str) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._name = name
        self._context = int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)
        self._ends = _end_tokens(model, tokenizer)
        self._token_texts: dict[int, str] = {}
        self._slots = _Slots(model.config.num_hidden_layers)
        self._rows: list[_Row] = []
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._stopped = False

    def submit(self, request: _Request) -> None:
        with self._changed:
            if self._stopped:
                raise ModelError(f"{self._name} is closed")
            self._waiting.append(request)
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def run(self) -> None:
        """Work until stopped."""
        with torch.inference_mode():
            self._work()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._rows or self._stopped):
                    self._slots.clear()
                    self._changed.wait()
                if self._stopped:
                    break
                new = self._take_waiting()
            try:
                self._admit(new)
                self._step()
            except Exception as error:  # out of memory, most likely: those it happened to are told, others go on
                self._fail({id(r): r for r in [*new, *(row.request for row in self._rows)]}.values(), error)
                self._rows.clear()
        self._fail([*self._waiting, *(row.request for row in self._rows)], ModelError(f"{self._name} is closed"))

    def _take_waiting(self) -> list[_Request]:
        """Requests whose rows there is room for now, in the order they came; a request wider than the batch goes
        alone."""
        free, new = self._batch_size - len(self._rows), list[_Request]()
        while self._waiting and (self._waiting[0].n <= free or (not self._rows and not new)):
            request = self._waiting.popleft()
            if not request.result.cancelled():
                free -= request.n
                new.append(request)
        return new

    def _admit(self, new: list[_Request]) -> None:
        """Read the prompts of new requests, and give each completion a row."""
        ready = []
        for request in new:
            try:
                request.prompt = render_prompt(self._tokenizer, request.messages, request.prefix)
            except Exception as error:
                self._fail([request], error)
                continue
            if len(request.prompt) >= self._context:
                _finish(request, [Completion("", [], [] if request.sampling.logprobs else None, "length")] * request.n)
            else:
                ready.append(request)
        ready.sort(key=lambda request: len(request.prompt))
        while ready:
            longest = len(ready[-1].prompt)
            batch = [ready.pop()]
            while ready and (len(batch) + 1) * longest <= self._PREFILL_TOKENS:
                batch.append(ready.pop())
            self._prefill(batch)

    def _prefill(self, batch: list[_Request]) -> None:
        """Fill the slots of a batch of prompts, longest first, but for each prompt's last token, which the next step
        reads."""
        first = len(self._rows)
        for request in batch:
            limit = min(request.sampling.max_tokens, self._context - len(request.prompt))
            for index in range(request.n):
                seed = request.sampling.seed
                rng = random.Random() if seed is None else random.Random(f"{seed} {index} {request.prompt}")
                self._rows.append(_Row(request, index, limit, rng, request.prompt[-1], len(request.prompt) - 1))
        longest = len(batch[0].prompt) - 1
        self._slots.reserve(len(self._rows), longest + 1)
        if not longest:
            return
        padded = [request.prompt[:-1] + [0] * (longest + 1 - len(request.prompt)) for request in batch]
        self._slots.fill(first, [request.n for request in batch])
        decoder = self._model.get_decoder()  # without the head: the logits of a prompt are not needed
        ids = torch.tensor(padded, device=self._model.device)
        positions = torch.arange(longest, device=ids.device).expand(len(batch), -1)
        decoder(input_ids=ids, position_ids=positions, past_key_values=self._slots, use_cache=True)

    def _step(self) -> None:
        """One more token for every row."""
        self._leave([row for row in self._rows if row.request.result.cancelled()])
        if not self._rows:
            return
        device = self._model.device
        lengths = torch.tensor([row.length for row in self._rows], device=device)
        used = max(row.length for row in self._rows) + 1
        self._slots.reserve(len(self._rows), used)
        self._slots.append(lengths, used)
        logits = (
            self._model(
                input_ids=torch.tensor([[row.last] for row in self._rows], device=device),
                position_ids=lengths[:, None],
                attention_mask=(torch.arange(used, device=device) <= lengths[:, None])[:, None, None, :],
                past_key_values=self._slots,
                use_cache=True,
            )
            .logits[:, -1]
            .float()
        )
        tokens = _draw(logits, self._rows)
        if any(row.request.sampling.logprobs for row in self._rows):
            chosen = logits.log_softmax(-1).gather(1, torch.tensor(tokens, device=device)[:, None])[:, 0].tolist()
            for row, logprob in zip(self._rows, chosen, strict=True):
                row.logprobs.append(logprob)
        ended = []
        for row, token in zip(self._rows, tokens, strict=True):
            row.tokens.append(token)
            row.last = token
            row.length += 1
            if (completion := self._completion(row)) is not None:
                ended.append(row)
                row.request.done[row.index] = completion
        self._leave(ended)
        for row in ended:
            if len(row.request.done) == row.request.n:
                _finish(row.request, [row.request.done[index] for index in range(row.request.n)])

    def _completion(self, row: _Row) -> Completion | None:
        """What ``row`` came to, if its last token ended it."""
        sampling, token = row.request.sampling, row.tokens[-1]
        logprobs = row.logprobs if sampling.logprobs else None
        if token in self._ends:
            text = self._text(row.request.prompt, row.tokens[:-1])
            return Completion(cut_at_stop(text, sampling.stop), row.tokens, logprobs, "stop")
        if sampling.stop and self._may_end_a_stop(token, sampling.stop):
            text = self._text(row.request.prompt, row.tokens)
            if (cut := cut_at_stop(text, sampling.stop)) != text:
                return Completion(cut, row.tokens, logprobs, "stop")
        if len(row.tokens) == row.limit:
            text = self._text(row.request.prompt, row.tokens).rstrip("\N{REPLACEMENT CHARACTER}")  # half a character
            return Completion(text, row.tokens, logprobs, "length")
        return None

    def _may_end_a_stop(self, token: int, stop: tuple[str, ...]) -> bool:
        """Whether a stop string can end within ``token``: a cheap test that spares decoding the whole text at every
        step."""
        if (text := self._token_texts.get(token)) is None:
            text = self._token_texts[token] = self._tokenizer.decode([token])
        return any(s[-1] in text or s[-1].isspace() or not s[-1].isascii() for s in stop)

    def _text(self, prompt: list[int], tokens: list[int]) -> str:
        """The text of ``tokens`` after ``prompt``: some tokenizers write a token differently at the beginning of a
        text."""
        before = prompt[-4:]
        whole, start = (self._tokenizer.decode(ids, skip_special_tokens=True) for ids in (before + tokens, before))
        return str(whole[len(start) :])

    def _leave(self, rows: list[_Row]) -> None:
        """Take ``rows`` out of the batch; the last ones move into the slots that become free."""
        gone = {id(row) for row in rows}
        for slot in range(len(self._rows) - 1, -1, -1):
            if id(self._rows[slot]) in gone:
                last = self._rows.pop()
                if slot < len(self._rows):
                    self._slots.move(len(self._rows), slot, last.length)
                    self._rows[slot] = last

    def _fail(self, requests: Iterable[_Request], error: Exception) -> None:
        known = isinstance(error, ModelError | ValueError)
        for request in requests:
            if not request.result.done():
                request.result.set_exception(error if known else ModelError(f"{self._name} failed: {error}"))


class _Slots(Cache):  # type: ignore[misc]  # transformers is untyped to mypy
    """The keys and values of all rows: per layer two tensors (slot, head, position, dimension) that grow as needed.

    Before a forward pass it is told where the pass belongs: ``fill`` for prompts, ``append`` for one token per row.
    """

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[_SlotLayer(self) for _ in range(layers)])
        self.rows = self.positions = 0
        self.first = 0
        self.copies: torch.Tensor | None = None
        self.lengths: torch.Tensor | None = None
        self.used = 0

    def reserve(self, rows: int, positions: int) -> None:
        """Make room for ``rows`` slots of ``positions`` tokens each."""
        if rows > self.rows or positions > self.positions:
            self.rows = max(rows, 2 * self.rows) if rows > self.rows else self.rows
            self.positions = positions * 5 // 4 + 64 if positions > self.positions else self.positions
            for layer in self.layers:
                layer.grow()

    def clear(self) -> None:
        """Give the memory back."""
        self.rows = self.positions = 0
        for layer in self.layers:
            layer.keys = layer.values = None
            layer.is_initialized = False

    def fill(self, first: int, copies: list[int]) -> None:
        """Next comes a batch of prompts: the i-th goes into ``copies[i]`` slots, one after the other from ``first``
        on."""
        self.first, self.copies, self.lengths = first, torch.tensor(copies), None

    def append(self, lengths: torch.Tensor, used: int) -> None:
        """Next comes one token for each of the first rows, at position ``lengths[row]``, before ``used``."""
        self.lengths, self.used = lengths, used

    def move(self, source: int, target: int, length: int) -> None:
        for layer in self.layers:
            for tensor in (layer.keys, layer.values):
                tensor[target, :, :length] = tensor[source, :, :length]


class _SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's part of ``_Slots``; the attention of transformers calls ``update``."""

    def __init__(self, slots: _Slots) -> None:
        super().__init__()
        self._slots = slots

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        slots = self._slots
        if slots.lengths is None:
            assert slots.copies is not None
            length = key_states.shape[2]
            end = slots.first + int(slots.copies.sum())
            copies = slots.copies.to(key_states.device)
            self.keys[slots.first : end, :, :length] = key_states.repeat_interleave(copies, 0)
            self.values[slots.first : end, :, :length] = value_states.repeat_interleave(copies, 0)
            return key_states, value_states
        rows = torch.arange(len(slots.lengths), device=key_states.device)
        self.keys[rows, :, slots.lengths] = key_states[:, :, 0]
        self.values[rows, :, slots.lengths] = value_states[:, :, 0]
        return self.keys[: len(rows), :, : slots.used], self.values[: len(rows), :, : slots.used]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        _, heads, _, size = key_states.shape
        self.keys = key_states.new_zeros(self._slots.rows, heads, self._slots.positions, size)
        self.values = value_states.new_zeros(self._slots.rows, heads, self._slots.positions, value_states.shape[-1])
        self.is_initialized = True

    def grow(self) -> None:
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(self._slots.rows, old.shape[1], self._slots.positions, old.shape[3])
            new[: old.shape[0], :, : old.shape[2]] = old
            setattr(self, name, new)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


def _draw(logits: torch.Tensor, rows: list[_Row]) -> list[int]:
    """A token for each row, by its own temperature, top-p and random numbers, whoever else is in the batch."""
    tokens: list[int] = logits.argmax(-1).tolist()
    hot = [i for i, row in enumerate(rows) if row.request.sampling.temperature > 0]
    if not hot:
        return tokens
    sampling = [rows[i].request.sampling for i in hot]

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, device=logits.device)[:, None]

    probabilities = (logits[hot] / column([s.temperature for s in sampling])).softmax(-1)
    top_p = column([s.top_p for s in sampling])
    # The likeliest tokens nearly always hold all the probability that counts; sorting everything is slow.
    likeliest, ids = probabilities.topk(min(64, logits.shape[1]))
    if (likeliest.sum(-1, keepdim=True) < top_p).any():
        likeliest, ids = probabilities.sort(descending=True)
    sums = likeliest.cumsum(-1)
    kept = (sums - likeliest < top_p).sum(-1, keepdim=True)
    point = column([rows[i].random.random() for i in hot]) * sums.gather(1, kept - 1)
    chosen = torch.minimum((sums <= point).sum(-1, keepdim=True), kept - 1)
    for i, token in zip(hot, ids.gather(1, chosen)[:, 0].tolist(), strict=True):
        tokens[i] = token
    return tokens


def _finish(request: _Request, completions: list[Completion]) -> None:
    if not request.result.done():
        used = sum(len(completion.token_ids or ()) for completion in completions)
        request.result.set_result(Generation(completions, request.prompt, len(request.prompt), used))


def _load(path_or_id: str, device: str) -> tuple[Any, Any]:
    """Model and tokenizer, ready to run."""
    files = model_files(path_or_id)
    try:
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        model = AutoModelForCausalLM.from_pretrained(files.model, dtype=dtype)
        if files.adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, files.adapter).merge_and_unload()
        own = files.adapter and (Path(files.adapter) / "tokenizer_config.json").exists()
        tokenizer = AutoTokenizer.from_pretrained(files.adapter if own else files.model)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(f"cannot load {path_or_id}: {error}") from error
    if not tokenizer.chat_template:
        raise ModelError(
            f"{path_or_id} has no chat template: take an instruction-tuned model, or add chat_template.jinja"
        )
    others = set(getattr(model.config, "layer_types", None) or ()) - {"full_attention"}
    if others:
        raise ModelError(f"{path_or_id} has layers of {', '.join(sorted(others))}: run it by vllm:{path_or_id}")
    return model.to(device).eval(), tokenizer


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a turn, wherever a model's files say so."""
    said = [model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id]
    return frozenset(i for ids in said if ids is not None for i in (ids if isinstance(ids, list) else [ids]))
