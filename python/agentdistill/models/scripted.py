"""A model whose completions are written by a Python function, for tests and for the demo's teacher."""

from collections.abc import Callable, Sequence

from agentdistill.models.model import Completion, Generation, Message, Sampling, cut_at_stop


class ScriptedModel:
    """A model whose completions are written by a Python function, for tests and examples.

    ``policy(messages, prefix, index)`` returns the text of candidate ``index`` (from 0). ``messages`` are the
    conversation so far, as (role, content); the text continues ``prefix``. Stop strings apply. Token limits do not,
    because there are no tokens.
    """

    def __init__(self, name: str, policy: Callable[[Sequence[Message], str, int], str]) -> None:
        self.name = name
        self._policy = policy

    async def generate(
        self, messages: Sequence[Message], sampling: Sampling, *, n: int = 1, prefix: str = ""
    ) -> Generation:
        texts = [self._policy(messages, prefix, index) for index in range(n)]
        return Generation([Completion(cut_at_stop(text, sampling.stop)) for text in texts])

    async def close(self) -> None:
        pass
