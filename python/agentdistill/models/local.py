"""Base class of the in-process engines, which render conversations here and can continue a completion from its ids.

Stop strings do not apply to thinking, and thinking may have its own token limit (``Sampling.thinking_tokens``).
A completion that was cut off inside its thinking is therefore continued from the sampled ids. Not here: how an engine
samples tokens (``vllm.py``, ``transformers.py``).
"""

from abc import abstractmethod
from asyncio import gather
from collections.abc import Sequence
from dataclasses import replace
from datetime import date

from agentdistill.models.model import Completion, Generation, Message, SampledModel, Sampling, Show, cut_at_stop
from agentdistill.models.rendering import Renderer
from agentdistill.models.thoughts import end_of_thinking, is_unfinished_thinking, split_thinking


class LocalModel(SampledModel):
    """A model whose conversations are rendered in this process."""

    _render: Renderer

    @property
    def date(self) -> date:
        """The date for chat templates that print one."""
        return self._render.date

    @date.setter
    def date(self, day: date) -> None:
        self._render.date = day

    @abstractmethod
    async def _complete(
        self, messages: Sequence[Message], prefix: str, prompt: list[int], sampling: Sampling, n: int, show: Show | None
    ) -> Generation:
        """Sample ``n`` completions of ``prompt``, or of the rendered ``messages`` and ``prefix`` if it is empty.

        Their text includes thinking. ``show`` is called with the text of a single completion.
        """

    async def _sample(
        self, messages: Sequence[Message], sampling: Sampling, n: int, prefix: str, show: Show | None
    ) -> Generation:
        opened = "" if prefix else self._render.opens_thinking
        if show and opened:
            show(opened)
        first = sampling
        if opened and sampling.thinking_tokens is not None:
            first = replace(sampling, max_tokens=sampling.thinking_tokens)
        first_part = await self._complete(messages, prefix, [], first, n, show)
        if prefix:  # the prefix is part of the reply, so there is no thinking
            return replace(
                first_part, completions=[replace(completion, stop="") for completion in first_part.completions]
            )
        whole = await gather(
            *(
                self._finish_thinking(
                    messages, first_part.prompt_token_ids or [], completion, opened, sampling, index, show
                )
                for index, completion in enumerate(first_part.completions)
            )
        )
        used = sum(len(completion.token_ids or ()) for completion in whole)
        parted = [_ended(completion.with_thinking_split(opened=opened), sampling) for completion in whole]
        return replace(first_part, completions=parted, completion_tokens=used)

    async def _finish_thinking(
        self,
        messages: Sequence[Message],
        prompt: list[int],
        done: Completion,
        opened: str,
        sampling: Sampling,
        index: int,
        show: Show | None,
    ) -> Completion:
        """Continue a completion until its thinking and its reply have each ended or reached their limit."""
        budget = sampling.max_tokens if sampling.thinking_tokens is None else sampling.thinking_tokens
        seed = None if sampling.seed is None else sampling.seed + 1 + index
        while True:
            ids, text = done.token_ids or [], opened + done.text
            left, end, is_last = budget - len(ids), "", False
            if is_unfinished_thinking(text):
                if left <= 0 and sampling.thinking_tokens is not None:
                    left, end, is_last = sampling.max_tokens, end_of_thinking(text), True
                elif not done.stop and done.finish_reason != "length":
                    return done
            else:
                thinking, reply = split_thinking(text)
                if not thinking or sampling.thinking_tokens is None or done.finish_reason != "length":
                    return done
                left, is_last = sampling.max_tokens - len(self._render.ids(reply)), True
            if left <= 0:
                return done
            closed = self._render.ids(end)
            if show and (between := done.stop + end):
                show(between)
            more = await self._complete(
                messages, "", prompt + ids + closed, replace(sampling, max_tokens=left, seed=seed), 1, show
            )
            [next_part] = more.completions
            if not next_part.token_ids:  # the context is full
                return done
            logprobs = None
            if done.logprobs is not None and next_part.logprobs is not None:
                logprobs = [*done.logprobs, *[0.0] * len(closed), *next_part.logprobs]
            done = Completion(
                done.text + done.stop + end + next_part.text,
                [*ids, *closed, *next_part.token_ids],
                logprobs,
                next_part.finish_reason,
                stop=next_part.stop,
            )
            if is_last:
                return done


def _ended(completion: Completion, sampling: Sampling) -> Completion:
    """Cut a completion at its first stop string, which may span two continuations."""
    text = cut_at_stop(completion.text, sampling.stop)
    finish_reason = completion.finish_reason if text == completion.text else "stop"
    return replace(completion, text=text, finish_reason=finish_reason, stop="")
