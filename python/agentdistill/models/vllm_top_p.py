"""Top-p sampling for vLLM on CPUs, where vLLM's own sorts the whole vocabulary for each token.

:class:`TopP` is one of vLLM's logits processors, loaded in the engine's process. It keeps the tokens that vLLM itself
would keep, but looks at the likeliest ones only, which nearly always suffice. GPUs have fast kernels of their own.
"""

from typing import Any

import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates

LIKELIEST = 64
"""Tokens that are looked at first."""
ROWS = 16
"""Requests at once: what is computed between has the size of their logits, and should stay in the cache."""
ARGUMENT = "agentdistill_top_p"
"""The name of top-p in the ``extra_args`` of a request, whose own ``top_p`` then is 1."""


class TopP(LogitsProcessor):  # type: ignore[misc]  # vLLM has no types here
    """Keep the smallest set of likeliest tokens whose probability is at least top-p."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.requests: dict[int, float] = {}
        """top-p of the requests that have one, by their row of the logits."""

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        def of(params: SamplingParams, prompt: list[int] | None, output: list[int]) -> float | None:
            return (params.extra_args or {}).get(ARGUMENT)

        process_dict_updates(self.requests, batch_update, of)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """``logits``: of shape (requests, vocabulary), divided by the temperature; changed in place."""
        if not self.requests:
            return logits
        top_p = torch.ones(len(logits), 1)
        for row, value in self.requests.items():
            top_p[row] = value
        for part, wanted in zip(logits.split(ROWS), top_p.split(ROWS), strict=True):
            part.masked_fill_(part < lowest_kept(part, wanted), float("-inf"))
        return logits


def lowest_kept(logits: torch.Tensor, top_p: torch.Tensor, most: int = LIKELIEST) -> torch.Tensor:
    """The smallest logit that is kept in each row, of shape (requests, 1), for ``top_p`` of the same shape."""
    vocabulary = logits.shape[1]
    likeliest = logits.topk(most).values if most < vocabulary else logits.sort(descending=True).values
    shares = (likeliest - logits.logsumexp(-1, keepdim=True)).exp()
    sums = shares.cumsum(-1)
    kept = (sums - shares < top_p).sum(-1, keepdim=True)
    lowest = likeliest.gather(1, kept - 1)
    lowest[top_p >= 1] = float("-inf")
    lacking = ((sums[:, -1:] < top_p) & (top_p < 1))[:, 0]
    if most < vocabulary and lacking.any():
        lowest[lacking] = lowest_kept(logits[lacking], top_p[lacking], vocabulary)
    return lowest
