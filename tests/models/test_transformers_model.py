"""The transformers engine: the same output as transformers' own generation, whatever else is in the batch."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from agentdistill import RolloutConfig, Task, rollout
from agentdistill.models import transformers as transformers_model
from agentdistill.models.loading import load_model, model_name
from agentdistill.models.model import Completion, Generation, Message, Model, ModelError, Sampling, cut_at_stop
from agentdistill.models.transformers import TransformersModel
from agentdistill.training.config import TrainConfig
from agentdistill.training.examples import load_tokenizer
from agentdistill.training.student import load_student


def ask(text: str) -> list[Message]:
    return [Message("system", "Be brief."), Message("user", text)]


@pytest.fixture
async def model(tiny_model: Path) -> AsyncIterator[TransformersModel]:
    model = TransformersModel(str(tiny_model), batch_size=16, dtype="float32")
    yield model
    await model.close()


@pytest.fixture(scope="module")
def oracle(tiny_model: Path) -> Callable[..., Any]:
    """Greedy ids after a prompt, from transformers itself, one prompt at a time."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)

    def generate(prompt: list[int], tokens: int, model: Any = model) -> list[int]:
        ids = torch.tensor([prompt])
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
        return list(whole[0, len(prompt) :].tolist())

    return generate


async def test_greedy_is_what_transformers_generates(
    model: TransformersModel, tiny_model: Path, oracle: Callable[..., Any]
) -> None:
    """Forty requests of different lengths through a batch of sixteen: rows join, leave and move all the time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    prefixes = ["", "Thought: I", "Thought:\n", "\N{GREEK SMALL LETTER PI} = "]
    cases = [("word " * (7 * i % 40), 5 + 11 * i % 60, prefixes[i % 4]) for i in range(40)]
    generations = await asyncio.gather(
        *(model.generate(ask(text), Sampling(max_tokens=limit), prefix=prefix) for text, limit, prefix in cases)
    )
    for (text, limit, prefix), generation in zip(cases, generations, strict=True):
        written = (
            f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        )
        prompt = tokenizer(written + prefix)["input_ids"]
        ids = oracle(prompt, limit)
        ended = ids[-1] == tokenizer.eos_token_id
        text = tokenizer.decode(ids, skip_special_tokens=True)
        completion = Completion(text if ended else text.rstrip("\ufffd"), ids, None, "stop" if ended else "length")
        assert generation == Generation([completion], prompt, len(prompt), len(ids))


async def test_a_conversation_that_goes_on(
    model: TransformersModel, oracle: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten conversations of four turns: earlier turns are not processed again, which does not change the output."""
    read: list[int] = []
    forward = model._decoder._forward
    monkeypatch.setattr(model._decoder, "_forward", lambda *a: (read.append(sum(map(len, a[1]))), forward(*a))[1])

    async def talk(number: int) -> None:
        messages = ask(f"{number} " + "word " * 3 * number)
        for turn in range(4):
            n = 1 if number % 2 else 3
            generation = await model.generate(messages, Sampling(0.6 * (n > 1), max_tokens=12 + turn, seed=1), n=n)
            prompt, (first, *_) = generation.prompt_token_ids, generation.completions
            if n == 1:
                assert first.token_ids == oracle(prompt, 12 + turn)
            # Some continue with what the model wrote, some with another text.
            said = first.text if number % 3 else "Nothing."
            messages = [*messages, Message("assistant", said), Message("user", f"Observation: {turn}")]

    await asyncio.gather(*(talk(number) for number in range(10)))
    alone = await model.generate(ask("9 " + "word " * 27), Sampling(max_tokens=1))
    assert sum(read) < 10 * (alone.prompt_tokens + 4 * 80) + 10 * 4 * 3 * 16


async def test_what_is_kept_is_bounded(model: TransformersModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model._decoder, "_MAX_KEPT_BYTES", 100_000)
    await asyncio.gather(*(model.generate(ask(str(number) * 50), Sampling(max_tokens=2)) for number in range(30)))
    kept = model._decoder._kept.values()
    assert 0 < len(kept) < 10
    assert sum(each.keys.nbytes + each.values.nbytes for each in kept) <= 100_000
    monkeypatch.setattr(model._decoder, "_IDLE_SECONDS", 0.01)
    await model.generate(ask("a"), Sampling(max_tokens=2))
    await asyncio.sleep(0.2)
    assert not model._decoder._kept
    assert (await model.generate(ask("a"), Sampling(max_tokens=2))).completion_tokens == 2


async def test_a_seed_draws_the_same_in_any_company(model: TransformersModel) -> None:
    sampling = Sampling(temperature=0.8, top_p=0.9, max_tokens=40, seed=3)
    alone = await model.generate(ask("a"), sampling, n=5)
    among = await asyncio.gather(*(model.generate(ask(text), sampling, n=5) for text in ("ccc", "a", "bb", "dd")))
    other = await model.generate(ask("a"), Sampling(temperature=0.8, top_p=0.9, max_tokens=40, seed=4), n=5)
    assert among[1] == alone
    assert other != alone
    assert len({completion.text for completion in alone.completions}) == 5
    free = Sampling(temperature=0.8, max_tokens=40)
    assert (await model.generate(ask("a"), free)).completions != (await model.generate(ask("a"), free)).completions


async def test_greedy_candidates_are_made_once(model: TransformersModel) -> None:
    one = await model.generate(ask("a"), Sampling(max_tokens=9))
    three = await model.generate(ask("a"), Sampling(max_tokens=9), n=3)
    assert three == Generation(one.completions * 3, one.prompt_token_ids, one.prompt_tokens, one.completion_tokens)


@pytest.mark.parametrize("stop", [("e",), ("{", "I"), ("{{",), ("\x03{",), ("{\N{EURO SIGN}", "\n"), ("never",)])
async def test_stop_strings(model: TransformersModel, tiny_model: Path, stop: tuple[str, ...]) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    sampling = Sampling(temperature=1.0, max_tokens=60, seed=1, stop=stop)
    for completion in (await model.generate(ask("a"), sampling, n=16)).completions:
        ids = completion.token_ids or []
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert not any(s in completion.text for s in stop)
        assert completion.text == cut_at_stop(text, stop) or completion.finish_reason == "length"
        assert not any(s in tokenizer.decode(ids[:-1], skip_special_tokens=True) for s in stop)
        assert (completion.finish_reason == "length") == (len(ids) == 60 and text == cut_at_stop(text, stop))


async def test_logprobs_are_the_models(model: TransformersModel, tiny_model: Path) -> None:
    network = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    generation = await model.generate(ask("a"), Sampling(0.7, 0.9, max_tokens=20, logprobs=True, seed=1), n=2)
    for completion in generation.completions:
        ids = (generation.prompt_token_ids or []) + (completion.token_ids or [])
        with torch.inference_mode():
            expected = network(torch.tensor([ids])).logits[0].log_softmax(-1)
        start = generation.prompt_tokens
        rows = [expected[i - 1, ids[i]].item() for i in range(start, len(ids))]
        assert completion.logprobs == pytest.approx(rows, abs=1e-4)


async def test_a_context_that_is_full(model: TransformersModel) -> None:
    many = await asyncio.gather(
        *(model.generate(ask("x" * length), Sampling(max_tokens=100)) for length in (5000, 4096, 4000, 10))
    )
    completions = [generation.completions[0] for generation in many]
    assert completions[0] == completions[1] == Completion("", [], None, "length")
    assert completions[2].finish_reason == "length"
    assert many[2].prompt_tokens + many[2].completion_tokens == 4096
    assert many[3].completion_tokens > 0


async def test_more_candidates_than_the_batch_has_rows(model: TransformersModel) -> None:
    generations = await asyncio.gather(
        *(model.generate(ask("a"), Sampling(1.0, max_tokens=5, seed=1), n=n) for n in (1, 40, 2))
    )
    assert [len(generation.completions) for generation in generations] == [1, 40, 2]
    assert generations[1].completions[:2] == generations[2].completions


async def test_a_request_that_is_given_up_leaves_the_batch(model: TransformersModel) -> None:
    long = asyncio.create_task(model.generate(ask("a"), Sampling(1.0, max_tokens=4000), n=8))
    await asyncio.sleep(0.05)  # not long: all eight may end by themselves
    long.cancel()
    await model.generate(ask("b"), Sampling(max_tokens=3))
    with pytest.raises(asyncio.CancelledError):
        await long
    assert model._decoder._rows == []


async def test_a_request_that_fails_does_so_alone(model: TransformersModel) -> None:
    broken: Any = [5]
    good, bad = await asyncio.gather(
        model.generate(ask("a"), Sampling(max_tokens=30)),
        model.generate(broken, Sampling()),
        return_exceptions=True,
    )
    assert isinstance(bad, ModelError)
    assert isinstance(good, Generation)


async def test_a_batch_that_fails_is_not_the_end(model: TransformersModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> list[int]:
        raise RuntimeError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(transformers_model, "_sample", fails)
        with pytest.raises(ModelError, match=r"tiny_model\d* failed: no room"):
            await model.generate(ask("a"), Sampling(0.5), n=3)
    assert (await model.generate(ask("a"), Sampling(max_tokens=3))).completion_tokens == 3


async def test_closing(tiny_model: Path) -> None:
    model = TransformersModel(str(tiny_model), dtype="float32")
    waiting = asyncio.create_task(model.generate(ask("a"), Sampling(1.0, max_tokens=4000), n=4))
    await asyncio.sleep(0.2)
    await model.close()
    with pytest.raises(ModelError, match="is closed"):
        await waiting
    with pytest.raises(ModelError, match="is closed"):
        await model.generate(ask("a"), Sampling())


async def test_an_adapter_is_merged(tiny_model: Path, tiny_adapter: Path, oracle: Callable[..., Any]) -> None:
    base, student = (load_model(f"transformers:{folder},dtype=float32") for folder in (tiny_model, tiny_adapter))
    assert [model.name for model in (base, student)] == [
        model_name(f"transformers:{folder},dtype=float32") for folder in (tiny_model, tiny_adapter)
    ]
    plain, tuned = [await m.generate(ask("a"), Sampling(max_tokens=30)) for m in (base, student)]
    assert plain.prompt_token_ids == tuned.prompt_token_ids
    assert plain.completions != tuned.completions
    network = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(tiny_model), tiny_adapter
    )
    assert tuned.completions[0].token_ids == oracle(tuned.prompt_token_ids, 30, network)
    await base.close()
    await student.close()


def changed(tiny_model: Path, folder: Path, **settings: object) -> Path:
    """A copy of the tiny model with other settings."""
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


def test_models_that_cannot_be_run(tiny_model: Path, tmp_path: Path) -> None:
    sliding = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, "layer_types": None}
    with pytest.raises(ModelError, match="has layers of sliding_attention: run it with vllm:"):
        load_model(f"transformers:{changed(tiny_model, tmp_path / 'sliding', **sliding)}")
    silent = changed(tiny_model, tmp_path / "silent")
    (silent / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template: use an instruction-tuned model"):
        load_model(f"transformers:{silent}")
    with pytest.raises(ModelError, match="cannot load"):
        load_model(f"transformers:{changed(tiny_model, tmp_path / 'unknown', model_type='unheard of')}")
    damaged = changed(tiny_model, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"cannot load .*damaged: Error while deserializing"):
        load_model(f"transformers:{damaged}")
    with pytest.raises(ModelError, match=r"weights of .*damaged are damaged \(Error while .*\): copy or download"):
        load_student(str(damaged), TrainConfig(), bfloat16=False)
    wordless = changed(tiny_model, tmp_path / "wordless")
    (wordless / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"wordless has no tokenizer: add its tokenizer\.json"):
        load_model(f"transformers:{wordless}")
    with pytest.raises(ModelError, match="wordless has no tokenizer"):
        load_tokenizer(str(wordless))
    with pytest.raises(ValueError, match="batch_size is 0"):
        load_model(f"transformers:{tiny_model}", batch_size=0)


@pytest.mark.parametrize("n", [0, -1])
async def test_n_must_be_positive(model: Model, n: int) -> None:
    with pytest.raises(ValueError, match="give at least 1"):
        await model.generate(ask("a"), Sampling(), n=n)


class Uniform:
    """A random number known in advance."""

    def __init__(self, number: float) -> None:
        self.random = lambda: number


@given(
    st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=100),
    st.sampled_from([0.1, 0.4, 1.0, 2.0]),
    st.sampled_from([0.01, 0.5, 0.8, 0.99, 1.0]),
    st.floats(0, 1, exclude_max=True),
)
def test_drawing_by_hand(logits: list[float], temperature: float, top_p: float, number: float) -> None:
    """Nucleus sampling written out from its definition, for one row with its random number."""
    sampling = Sampling(temperature, top_p)
    request = transformers_model._Request([], sampling, 1, "")
    row: Any = transformers_model._Row(request, 0, 1, Uniform(number), 0, 0)  # type: ignore[arg-type]
    (token,) = transformers_model._sample(torch.tensor([logits]), [row])
    probabilities = (torch.tensor(logits).double() / temperature).softmax(0).tolist()
    order = sorted(range(len(logits)), key=lambda i: -probabilities[i])
    nucleus, mass = [], 0.0
    for i in order:
        if mass >= top_p - 1e-6 and nucleus:
            break
        nucleus.append(i)
        mass += probabilities[i]
    below = 0.0
    allowed = set()
    for i in order[
        : len(nucleus) + 1
    ]:  # rounding may take one more, and tokens as likely as one another are any of them
        if below / mass <= number + 1e-4 and (below + probabilities[i]) / mass >= number - 1e-4:
            allowed |= {j for j in range(len(logits)) if abs(probabilities[j] - probabilities[i]) < 1e-6}
        below += probabilities[i]
    assert token in allowed


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
async def test_out_of_memory_says_what_to_turn(
    model: TransformersModel, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(model._decoder, "_forward", fails)
        with pytest.raises(ModelError, match=r"out of memory .*batch_size=4"):
            await model.generate(ask("a"), Sampling())
    assert (await model.generate(ask("a"), Sampling(max_tokens=3))).completions[0].token_ids, "it goes on"


@pytest.mark.parametrize("kind, candidates", [("agent", 3), ("cot", 3), ("agent", 1)])
def test_a_seed_draws_a_whole_run_again(tiny_model: Path, kind: Any, candidates: int) -> None:
    tasks = [Task(name, "What is 6 times 7?", "42", "sums", "math") for name in ("a#1", "a#2")]

    def drawn(seed: int) -> list[list[str]]:
        config = RolloutConfig(
            kind=kind, candidates=candidates, temperature=0.9, top_p=1.0, max_tokens=12, max_steps=2, seed=seed
        )
        made = rollout(tasks, f"transformers:{tiny_model},dtype=float32", config=config, progress=False)
        return [[c.text for step in trajectory.steps for c in step.candidates] for trajectory in made]

    first = drawn(5)
    assert first == drawn(5)
    assert first != drawn(6)
    assert first[0] != first[1], "another episode of the same question"
    assert all(len(set(texts)) > 1 for texts in first), "candidates and steps differ"


OPENS = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"


@pytest.mark.parametrize("n", [1, 3])
async def test_thinking_has_tokens_of_its_own(
    tiny_model: Path, tmp_path: Path, oracle: Callable[..., Any], n: int
) -> None:
    """The tiny model never ends its thinking. At the limit, the engine ends it, and the model continues."""
    shutil.copytree(tiny_model, tmp_path / "thinks")
    template = (tmp_path / "thinks" / "chat_template.jinja").read_text()
    (tmp_path / "thinks" / "chat_template.jinja").write_text(template.split("{% if add_gen")[0] + OPENS)
    model = TransformersModel(str(tmp_path / "thinks"), dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    closing = tokenizer("\n</think>\n\n")["input_ids"]
    sampling = Sampling(0.0 if n == 1 else 0.9, max_tokens=5, thinking_tokens=7, seed=1, logprobs=True)
    generation = await model.generate(ask("a"), sampling, n=n)
    assert generation.prompt_token_ids and len(generation.completions) == n
    for completion in generation.completions:
        ids = completion.token_ids or []
        thought = ids[:7]
        if n == 1:
            assert thought == oracle(generation.prompt_token_ids, 7)
            assert ids[7 + len(closing) :] == oracle(generation.prompt_token_ids + thought + closing, 5)
        assert ids[7 : 7 + len(closing)] == closing and len(ids) == len(completion.logprobs or []) == 12 + len(closing)
        assert completion.thinking.startswith("<think>\n") and completion.thinking.endswith("\n</think>\n\n")
        assert completion.finish_reason == "length" and "think" not in completion.text
    await model.close()


async def test_what_ends_a_reply_ends_no_thinking(tiny_model: Path, tmp_path: Path, oracle: Callable[..., Any]) -> None:
    shutil.copytree(tiny_model, tmp_path / "thinks")
    template = (tmp_path / "thinks" / "chat_template.jinja").read_text()
    (tmp_path / "thinks" / "chat_template.jinja").write_text(template.split("{% if add_gen")[0] + OPENS)
    model = TransformersModel(str(tmp_path / "thinks"), dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    [free] = (await model.generate(ask("a"), Sampling(max_tokens=20))).completions
    stop = tuple(tokenizer.decode([token]) for token in (free.token_ids or [])[3:12:4])
    generation = await model.generate(ask("a"), Sampling(max_tokens=20, stop=stop))
    assert generation.completions == [free], "the same thinking, to the last token"
    assert generation.completion_tokens == 20
    await model.close()
