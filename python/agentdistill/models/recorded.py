"""A model that replays recorded trajectories, for tests and for repeating a rollout without its model."""

from collections.abc import Sequence
from pathlib import Path

from agentdistill._core import Trajectory, read_trajectories
from agentdistill.models.model import Completion, Generation, Message, ModelError, Sampling
from agentdistill.models.thoughts import between_tags


class RecordedModel:
    """Replays a trajectory file: each step of a recorded conversation gets its recorded completions.

    A request for one candidate gets the winner; a request for n gets the first n recorded. A conversation is identified
    by its opening messages, or else by its question, so a file can be replayed under another prompt. Its step is the
    number of assistant turns since.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = f"recorded:{path}"
        self._by_opening: dict[tuple[tuple[str, str], ...], Trajectory] = {}
        self._by_question: dict[str, Trajectory] = {}
        for trajectory in read_trajectories(path):
            self._by_opening.setdefault(tuple(trajectory.messages), trajectory)
            for question in (trajectory.question, *(text for role, text in trajectory.messages[-1:] if role == "user")):
                self._by_question.setdefault(question, trajectory)

    async def generate(
        self, messages: Sequence[Message], sampling: Sampling, *, n: int = 1, prefix: str = ""
    ) -> Generation:
        trajectory, number = self._find(messages)
        where = f"step {number + 1} of task {trajectory.task_id!r} in {self.name}"
        if number >= len(trajectory.steps):
            raise ModelError(f"no {where}: the recorded episode has {len(trajectory.steps)} steps")
        step = trajectory.steps[number]
        candidates = [step.candidates[step.winner]] if n == 1 else step.candidates[:n]
        if len(candidates) < n:
            raise ModelError(
                f"{where} has {len(candidates)} candidates, not {n}: ask for at most as many as were recorded"
            )
        if other := next((c for c in candidates if c.prefix != prefix), None):
            raise ModelError(
                f"{where} began with the prefix {other.prefix!r}, not {prefix!r}: replay it with the same settings"
            )
        completions = [
            Completion(
                c.text[len(c.prefix) :],
                c.token_ids,
                c.logprobs,
                c.finish_reason or "stop",
                thinking=between_tags(c.reasoning),
            )
            for c in candidates
        ]
        ids = step.prompt_token_ids
        return Generation(completions, ids, len(ids or ()), sum(len(c.token_ids or ()) for c in completions))

    async def close(self) -> None:
        pass

    def _find(self, messages: Sequence[Message]) -> tuple[Trajectory, int]:
        """The recorded episode that this conversation belongs to, and the index of its next step."""
        for length in range(len(messages), 0, -1):
            if found := self._by_opening.get(tuple((m.role, m.content) for m in messages[:length])):
                return found, sum(m.role == "assistant" for m in messages[length:])
        for message in messages:
            if message.role == "user" and (found := self._by_question.get(message.content)):
                return found, sum(m.role == "assistant" for m in messages)
        question = next((m.content for m in messages if m.role == "user"), "")
        raise ModelError(f"{self.name} has no trajectory for the question {question[:200]!r}")
