"""A model run in this process by transformers. It needs no server and no compiler, and is fast for small students, also
on a CPU.

All pending requests are decoded together with continuous batching. Each completion is a row with its own length,
sampling parameters and stop strings. A row leaves the batch when it ends, and another takes its place. Rows write their
keys and values into slots of one preallocated cache, so no step pads or copies them. A conversation's keys and values
are kept for its next turn, so each step processes only the new part of its prompt.

transformers' own continuous batching (``generate_batch``) was several times slower on a CPU (docs/design-notes.md).

Decoders with full attention are supported (Qwen2, Qwen3, Llama, ...). Not here: training, and serving large models
(vLLM).
"""

import asyncio
import random
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NamedTuple, Self

import torch

from agentdistill.models.device import default_device
from agentdistill.models.key_value_slots import Slots
from agentdistill.models.local import LocalModel
from agentdistill.models.model import (
    Completion,
    Generation,
    Message,
    ModelError,
    Sampling,
    Show,
    cut_at_stop,
)
from agentdistill.models.pretrained import is_out_of_memory, load
from agentdistill.models.rendering import Renderer


class TransformersModel(LocalModel):
    """A causal language model with a chat template, from a folder, a hub or a GGUF file. The weights of a GGUF file are
    dequantized. A PEFT adapter is merged into its base."""

    def __init__(
        self,
        path_or_id: str,
        *,
        batch_size: int = 128,
        device: str | None = None,
        template: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """``batch_size``: maximum number of completions decoded at once. ``device``: default: the GPU if there is one.
        ``template``: additional arguments of the chat template, such as ``{"enable_thinking": False}``. ``options``
        are passed to transformers' ``from_pretrained``, such as ``dtype`` (default: see ``device.py``).

        Raises ModelError if the model does not exist or this engine cannot run it.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: give at least 1")
        model, tokenizer = load(path_or_id, device or default_device(), **options)
        self._set_up(model, tokenizer, path_or_id, batch_size, template)

    @classmethod
    def of(cls, model: Any, tokenizer: Any, name: str) -> Self:
        """Run a model that is already loaded, for example one in training. Its weights must not change before
        ``close``."""
        self = cls.__new__(cls)
        self._set_up(model, tokenizer, name, 128, None)
        return self

    def _set_up(
        self, model: Any, tokenizer: Any, name: str, batch_size: int, template: Mapping[str, Any] | None
    ) -> None:
        others = set(getattr(model.config, "layer_types", None) or ()) - {"full_attention"}
        if others:
            raise ModelError(f"{name} has layers of {', '.join(sorted(others))}: run it with vllm:{name}")
        self.name = name
        self._render = Renderer(tokenizer, template)
        self._decoder = _Decoder(model, tokenizer, self._render, batch_size, name)
        self._thread: threading.Thread | None = None

    async def _complete(
        self, messages: Sequence[Message], prefix: str, prompt: list[int], sampling: Sampling, n: int, show: Show | None
    ) -> Generation:
        if self._thread is None:
            self._thread = threading.Thread(target=self._decoder.run, name="transformers-model", daemon=True)
            self._thread.start()
        request = _Request(list(messages), sampling, n, prefix, prompt=prompt)
        self._decoder.submit(request)
        generation = await asyncio.wrap_future(request.result)
        if show:
            show(generation.completions[0].text)
        return generation

    async def close(self) -> None:
        self._decoder.stop()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)


@dataclass(eq=False)
class _Request:
    """A request for ``n`` completions. ``result`` is set when the last of them has ended."""

    messages: list[Message]
    sampling: Sampling
    n: int
    prefix: str
    result: Future[Generation] = field(default_factory=Future)
    prompt: list[int] = field(default_factory=list)
    done: dict[int, Completion] = field(default_factory=dict)


@dataclass(eq=False)
class _Row:
    """One completion that is being decoded."""

    request: _Request
    index: int
    limit: int
    """Maximum number of new tokens, from ``max_tokens`` and the context size."""
    random: random.Random
    last: int
    """The last token, which the next step processes."""
    length: int
    """Tokens processed so far: the row's keys and values fill this many positions of its slot."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class _KeptConversation(NamedTuple):
    """A conversation's processed tokens, with their keys and values (layer, head, position, dimension)."""

    tokens: list[int]
    keys: torch.Tensor
    values: torch.Tensor


class _KnownPrefix(NamedTuple):
    """How many tokens at the beginning of a prompt need no processing, and the cache entry that holds them."""

    length: int
    kept: _KeptConversation | None


class _Decoder:
    """Decodes all requests in a worker thread. No other thread uses the model."""

    _PREFILL_TOKENS = 8_192
    """Maximum number of tokens, including padding, in one prefill pass. It bounds the memory of the pass."""
    _CHUNK = 2_048
    """Maximum number of tokens of one prompt in a prefill pass."""
    _MAX_KEPT_BYTES = 512 << 20
    """Maximum memory for the keys and values kept for later turns, in bytes."""
    _IDLE_SECONDS = 10.0
    """Memory is freed after this many seconds without work."""

    def __init__(self, model: Any, tokenizer: Any, render: Renderer, batch_size: int, name: str) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._render = render
        self._batch_size = batch_size
        self._name = name
        self._context = int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)
        self._ends = _end_tokens(model, tokenizer)
        self._token_texts: dict[int, str] = {}
        self._slots = Slots(model.config.num_hidden_layers)
        self._rows: list[_Row] = []  # row i uses slot i
        self._kept: OrderedDict[tuple[Message, ...], _KeptConversation] = OrderedDict()
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
        """Decode until ``stop`` is called."""
        with torch.inference_mode():
            self._work()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._rows or self._stopped):
                    if not self._changed.wait(self._IDLE_SECONDS):
                        self._slots.clear()
                        self._kept.clear()
                if self._stopped:
                    break
                new = self._take_waiting()
            try:
                self._admit(new)
                self._step()
            except Exception as error:  # most likely out of memory: fail these requests, keep the waiting ones
                self._fail({id(r): r for r in [*new, *(row.request for row in self._rows)]}.values(), error)
                self._rows.clear()
        self._fail([*self._waiting, *(row.request for row in self._rows)], ModelError(f"{self._name} is closed"))

    def _take_waiting(self) -> list[_Request]:
        """Take the requests that fit into the batch now, in order of arrival. One larger than the batch runs alone."""
        free, new = self._batch_size - len(self._rows), list[_Request]()
        while self._waiting and (self._waiting[0].n <= free or (not self._rows and not new)):
            request = self._waiting.popleft()
            if not request.result.cancelled():
                free -= request.n
                new.append(request)
        return new

    def _admit(self, new: list[_Request]) -> None:
        """Prefill the prompts of new requests, and give each completion a row."""
        ready = []
        for request in new:
            try:
                request.prompt = request.prompt or self._render(request.messages, request.prefix)
            except Exception as error:
                self._fail([request], error)
                continue
            if len(request.prompt) >= self._context:
                _finish(request, [Completion("", [], [] if request.sampling.logprobs else None, "length")] * request.n)
            else:
                ready.append(request)
        known = {id(request): self._known(request) for request in ready}
        ready.sort(key=lambda request: len(request.prompt) - known[id(request)].length)
        while ready:
            longest = len(ready[-1].prompt) - known[id(ready[-1])].length
            batch = [ready.pop()]
            while ready and (len(batch) + 1) * min(longest, self._CHUNK) <= self._PREFILL_TOKENS:
                batch.append(ready.pop())
            self._prefill(batch, [known[id(request)] for request in batch])

    def _prefill(self, batch: list[_Request], known: "list[_KnownPrefix]") -> None:
        """Prefill the prompts of a batch, except their known beginnings and their last tokens, which the next step
        processes."""
        first = len(self._rows)
        for index in range(max(request.n for request in batch)):  # first candidates in adjacent slots, then the others
            for request in batch:
                if index < request.n:
                    seed, limit = request.sampling.seed, self._context - len(request.prompt)
                    rng = random.Random() if seed is None else random.Random(f"{seed} {index} {request.prompt}")
                    limit = min(limit, request.sampling.max_tokens)
                    self._rows.append(_Row(request, index, limit, rng, request.prompt[-1], len(request.prompt) - 1))
        unread = [request.prompt[length:-1] for request, (length, _) in zip(batch, known, strict=True)]
        longest = max(map(len, unread))
        self._slots.reserve(len(self._rows), max(length for length, _ in known) + longest + 1)
        for slot, (length, kept) in enumerate(known, start=first):
            if kept is not None:
                self._slots.write(slot, length, kept.keys, kept.values)
        decoder = self._model.get_decoder()  # without the head: the logits of a prompt are not needed
        starts = torch.tensor([[length] for length, _ in known], device=self._model.device)
        for start in range(0, longest, self._CHUNK):
            end = min(start + self._CHUNK, longest)
            ids = [tokens[start:end] + [0] * (end - max(start, len(tokens))) for tokens in unread]
            self._forward(decoder, ids, first, starts + torch.arange(start, end, device=starts.device))
        for slot in range(first + len(batch), len(self._rows)):
            row = self._rows[slot]
            self._slots.copy(first + batch.index(row.request), slot, row.length)

    def _forward(self, network: Any, ids: list[list[int]], first: int, positions: torch.Tensor) -> Any:
        """Run ``network`` on the next tokens of the rows from ``first`` on, with a causal mask over each row."""
        used = int(positions.max()) + 1
        self._slots.place(first, positions, used)
        hidden = torch.arange(used, device=positions.device) > positions[:, :, None]
        mask = torch.zeros(hidden.shape, dtype=self._model.dtype, device=positions.device)
        return network(
            input_ids=torch.tensor(ids, device=positions.device),
            position_ids=positions,
            attention_mask=mask.masked_fill_(hidden, -torch.inf)[:, None],
            past_key_values=self._slots,
            use_cache=True,
        )

    def _known(self, request: _Request) -> "_KnownPrefix":
        """Find how much of a prompt was processed by an earlier turn of its conversation, or else by the latest
        conversation."""
        kept = self._kept.get(_opening(request.messages)) or next(reversed(self._kept.values()), None)
        if kept is None:
            return _KnownPrefix(0, None)
        most = min(len(kept.tokens), len(request.prompt) - 1)
        length = next((i for i in range(most) if kept.tokens[i] != request.prompt[i]), most)
        return _KnownPrefix(length, kept)

    def _keep(self, slot: int, row: _Row) -> None:
        """Keep the keys and values of ``row`` for the next turn of its conversation."""
        tokens = (row.request.prompt + row.tokens)[: row.length]
        opening = _opening(row.request.messages)
        self._kept.pop(opening, None)
        self._kept[opening] = _KeptConversation(tokens, *self._slots.read(slot, row.length))
        held = sum(kept.keys.nbytes + kept.values.nbytes for kept in self._kept.values())
        while held > self._MAX_KEPT_BYTES:
            _, kept = self._kept.popitem(last=False)
            held -= kept.keys.nbytes + kept.values.nbytes

    def _step(self) -> None:
        """Sample one more token for every row."""
        self._leave([row for row in self._rows if row.request.result.cancelled()])
        if not self._rows:
            return
        lengths = torch.tensor([[row.length] for row in self._rows], device=self._model.device)
        self._slots.reserve(len(self._rows), max(row.length for row in self._rows) + 1)
        logits = self._forward(self._model, [[row.last] for row in self._rows], 0, lengths).logits[:, -1].float()
        tokens = _sample(logits, self._rows)
        if any(row.request.sampling.logprobs for row in self._rows):
            chosen = (
                logits.log_softmax(-1).gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
            )
            for row, logprob in zip(self._rows, chosen, strict=True):
                row.logprobs.append(logprob)
        ended = []
        for slot, (row, token) in enumerate(zip(self._rows, tokens, strict=True)):
            row.tokens.append(token)
            row.last = token
            row.length += 1
            if (completion := self._completion(row)) is not None:
                ended.append(row)
                if row.index == 0:
                    self._keep(slot, row)
                row.request.done[row.index] = completion
        self._leave(ended)
        for row in ended:
            if len(row.request.done) == row.request.n:
                _finish(row.request, [row.request.done[index] for index in range(row.request.n)])

    def _completion(self, row: _Row) -> Completion | None:
        """The finished completion of ``row`` if its last token ended it, else None."""
        sampling, token = row.request.sampling, row.tokens[-1]
        logprobs = row.logprobs if sampling.logprobs else None
        if token in self._ends:
            text = self._text(row.request.prompt, row.tokens[:-1])
            return Completion(cut_at_stop(text, sampling.stop), row.tokens, logprobs, "stop")
        if sampling.stop and self._may_end_a_stop(token, sampling.stop):
            text = self._text(row.request.prompt, row.tokens)
            if (cut := cut_at_stop(text, sampling.stop)) != text:
                return Completion(cut, row.tokens, logprobs, "stop", stop=text[len(cut) :])
        if len(row.tokens) == row.limit:
            text = self._text(row.request.prompt, row.tokens).rstrip("\N{REPLACEMENT CHARACTER}")  # incomplete
            return Completion(text, row.tokens, logprobs, "length")
        return None

    def _may_end_a_stop(self, token: int, stop: tuple[str, ...]) -> bool:
        """Whether a stop string can end in ``token``. A cheap test that avoids decoding the text at every step."""
        if (text := self._token_texts.get(token)) is None:
            text = self._token_texts[token] = self._tokenizer.decode([token])
        return any(s[-1] in text or s[-1].isspace() or not s[-1].isascii() for s in stop)

    def _text(self, prompt: list[int], tokens: list[int]) -> str:
        """Decode ``tokens`` in the context of ``prompt``, because some tokenizers decode a token differently at the
        beginning of a text."""
        before = prompt[-4:]
        whole, start = (self._tokenizer.decode(ids, skip_special_tokens=True) for ids in (before + tokens, before))
        return str(whole[len(start) :])

    def _leave(self, rows: list[_Row]) -> None:
        """Remove ``rows`` from the batch, and move the last rows into the freed slots."""
        gone = {id(row) for row in rows}
        for slot in range(len(self._rows) - 1, -1, -1):
            if id(self._rows[slot]) in gone:
                last = self._rows.pop()
                if slot < len(self._rows):
                    self._slots.copy(len(self._rows), slot, last.length)
                    self._rows[slot] = last

    def _fail(self, requests: Iterable[_Request], error: Exception) -> None:
        if is_out_of_memory(error):
            error = ModelError(
                f"{self._name} ran out of memory with {len(self._rows)} completions at once: reduce the batch "
                f"(transformers:{self._name},batch_size={max(1, self._batch_size // 4)}), or --max-tokens"
            )
        elif not isinstance(error, ModelError | ValueError):
            error = ModelError(f"{self._name} failed: {error}")
        for request in requests:
            if not request.result.done():
                request.result.set_exception(error)


def _sample(logits: torch.Tensor, rows: list[_Row]) -> list[int]:
    """Sample a token for each row with its own temperature, top-p and random numbers, independent of other rows."""
    tokens: list[int] = logits.argmax(-1).tolist()
    hot = [i for i, row in enumerate(rows) if row.request.sampling.temperature > 0]
    if not hot:
        return tokens
    sampling = [rows[i].request.sampling for i in hot]

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, device=logits.device)[:, None]

    probabilities = (logits[hot] / column([s.temperature for s in sampling])).softmax(-1)
    top_p = column([s.top_p for s in sampling])
    # The 64 likeliest tokens nearly always cover top_p, and sorting the whole vocabulary is slow.
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


def _opening(messages: list[Message]) -> tuple[Message, ...]:
    """The messages before the model's first turn, which identify a conversation."""
    return tuple(takewhile(lambda message: message[0] != "assistant", messages))


def _finish(request: _Request, completions: list[Completion]) -> None:
    if not request.result.done():
        used = sum(len(completion.token_ids or ()) for completion in completions)
        request.result.set_result(Generation(completions, request.prompt, len(request.prompt), used))


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """All end-of-turn tokens, from the generation config, the model config and the tokenizer."""
    ends = [model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id]
    return frozenset(i for ids in ends if ids is not None for i in (ids if isinstance(ids, list) else [ids]))
