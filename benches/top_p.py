"""Top-p sampling on CPUs: vLLM's own sort of the vocabulary against models/vllm_top_p.py, for one step of a batch.

    .venv/bin/python benches/top_p.py

The logits are made up: 50 likely tokens among 151,936, the vocabulary of Qwen2.5, so that top-p keeps a few.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

from agentdistill.models.vllm_top_p import TopP

VOCABULARY = 151_936
TOP_P = 0.8


def seconds(work: Callable[[torch.Tensor], torch.Tensor], logits: torch.Tensor, rounds: int = 5) -> float:
    """The best of some rounds. The logits are changed in place, so each round gets a copy, which is not timed."""
    best = float("inf")
    for _ in range(rounds):
        copied = logits.clone()
        start = time.perf_counter()
        work(copied)
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    torch.manual_seed(0)
    print("| requests | vLLM, ms | ours, ms | ratio |\n|---:|---:|---:|---:|")
    for requests in (1, 8, 64, 256):
        logits = 2 * torch.randn(requests, VOCABULARY)
        logits[:, :50] += 12 + 12 * torch.rand(requests, 50)
        top_p = torch.full((requests,), TOP_P)
        ours = TopP(None, torch.device("cpu"), False)
        ours.requests = dict.fromkeys(range(requests), TOP_P)
        theirs = seconds(partial(apply_top_k_top_p_pytorch, k=None, p=top_p), logits)
        mine = seconds(ours.apply, logits)
        print(f"| {requests} | {1e3 * theirs:.1f} | {1e3 * mine:.1f} | {theirs / mine:.1f} |")


if __name__ == "__main__":
    main()
