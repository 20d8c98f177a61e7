"""Grade facts with a language model as judge, as the paper does.

Any Model can be a judge. It decides whether an answer means the same as the reference. It grades only facts;
mathematics is compared by another grader. Prompts and replies are logged, so that people can check them
and a resumed run does not repeat requests.
"""

import hashlib
import json
import logging
import re
from importlib import resources
from pathlib import Path

from agentdistill.grading.grade import Grade, Grader, grade_by_kind
from agentdistill.models.model import Message, Model, Sampling
from agentdistill.tasks.task import Task

_log = logging.getLogger(__name__)

SAMPLING = Sampling(max_tokens=2048)
"""Greedy, with enough tokens for models that think first."""

_LONGEST = 2_000
"""Maximum number of characters of an answer that the judge sees."""

_SCORE = re.compile(r"""["']?\bscore["']?\s*[:=]\s*["']?(1|0|true|false)\b""", re.IGNORECASE)
"""A score in invalid JSON."""


def score_said(reply: str) -> float | None:
    """Parse the score, 0 or 1, from a judge's reply. It is that of the last JSON object with a score, which may be in a
    code fence or in prose, or else of a fragment of invalid JSON. None if there is no score."""
    start, score = reply.find("{"), None
    while start >= 0:
        try:
            value, end = _JSON.raw_decode(reply, start)
        except (json.JSONDecodeError, RecursionError):
            end = start + 1
        else:
            if isinstance(value, dict) and str(value.get("score")).lower() in _SCORES:
                score = _SCORES[str(value["score"]).lower()]
        start = reply.find("{", end)
    if score is None and (almost := _SCORE.findall(reply)):
        score = _SCORES[almost[-1].lower()]
    return score


_JSON = json.JSONDecoder(strict=False)
_SCORES = {"1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0, "true": 1.0, "false": 0.0}


def _data(task: Task, answer: str) -> str:
    """The question, references and answer as JSON with ``<`` and ``>`` escaped, so no answer can close its block."""
    data = {"question": task.question, "references": list(task.answers), "answer": answer}
    text = json.dumps(data, ensure_ascii=False, indent=0)
    return f"<data>\n{text.replace('<', chr(92) + 'u003c').replace('>', chr(92) + 'u003e')}\n</data>"


class Judge:
    """A Grader that prompts a model about facts, and has ``mathematics`` grade the other tasks. ``log`` is a JSON Lines
    file, created or appended to, with the task_id, grader, messages, reply and score of each judged answer. A prompt
    that is in the log with its reply is not sent again."""

    def __init__(self, model: Model, log: str | Path, mathematics: Grader = grade_by_kind) -> None:
        self._model = model
        self._mathematics = mathematics
        self._log = Path(log)
        self._prompt = (resources.files("agentdistill.grading") / "judge.txt").read_text(encoding="utf-8").strip()
        version = hashlib.sha256(self._prompt.encode()).hexdigest()[:8]
        self._grader = f"judge-{version}:{model.name}"
        self._replies = self._logged()

    async def __call__(self, task: Task, answer: str | None) -> Grade:
        """Grade an answer. Raises ModelError if the model fails."""
        if task.kind == "math":
            return await self._mathematics(task, answer)
        if not answer or not answer.strip():
            return Grade(0.0, self._grader)
        asked = Message("user", _data(task, answer[:_LONGEST]))
        reply = self._replies.get(asked.content)
        is_new = reply is None
        if reply is None:
            messages = [Message("system", self._prompt), asked]
            reply = (await self._model.generate(messages, SAMPLING)).completions[0].text
        score = score_said(reply)
        if score is None:
            _log.warning("the judge gives no score for task %r, which is not graded: %r", task.id, reply[-200:])
        if is_new:
            self._keep(
                task_id=task.id,
                grader=self._grader,
                messages=[("system", self._prompt), asked],
                reply=reply,
                score=score,
            )
        return Grade(score, self._grader)

    def _logged(self) -> dict[str, str]:
        """The model's earlier replies, by prompt."""
        if not self._log.exists():
            return {}
        replies: dict[str, str] = {}
        for line in self._log.read_text(encoding="utf-8").split("\n"):
            try:
                known = json.loads(line)
            except json.JSONDecodeError:  # the empty last line, or a partial line after a kill
                continue
            if known["grader"] == self._grader:
                replies[known["messages"][-1][1]] = known["reply"]
        return replies

    def _keep(self, **known: object) -> None:
        with self._log.open("a+b") as file:
            if file.tell() and (file.seek(-1, 2), file.read())[1] != b"\n":
                file.write(b"\n")
            file.write(json.dumps(known).encode() + b"\n")
