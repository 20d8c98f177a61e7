"""A language model as judge: does this answer say the same as the reference? The paper's way for facts.

Any Model can be one. It judges facts alone: mathematics stays a matter of values (math_equality.py). What it was asked
and what it replied is kept, so that people can check it, and so that a judge who was stopped is not asked twice.
"""

import hashlib
import json
import logging
import re
from importlib import resources
from pathlib import Path

from agentdistill.grading.grade import Grade, grade_by_kind
from agentdistill.models.model import Message, Model, Sampling
from agentdistill.tasks.task import Task

_log = logging.getLogger(__name__)

SAMPLING = Sampling(max_tokens=2048)
"""Greedy, with room for models that think first."""

_LONGEST = 2_000
"""The judge sees so many characters of an answer."""

_SCORE = re.compile(r"""["']?\bscore["']?\s*[:=]\s*["']?(1|0|true|false)\b""", re.IGNORECASE)
"""A score in what is almost JSON."""


def score_said(reply: str) -> float | None:
    """The score of a judge's reply, 0 or 1: that of the last JSON object that has one, in a fence or among prose too,
    or of what is almost JSON. None where there is none."""
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
    """What is compared, as JSON without a bracket of a tag: no answer can close the block that it stands in."""
    data = {"question": task.question, "references": list(task.answers), "answer": answer}
    text = json.dumps(data, ensure_ascii=False, indent=0)
    return f"<data>\n{text.replace('<', chr(92) + 'u003c').replace('>', chr(92) + 'u003e')}\n</data>"


class Judge:
    """A Grader that asks a model. ``log`` is a file of JSON lines, made or continued: task_id, grader, messages, reply
    and score of each answer judged; what it has an answer for is not asked again."""

    def __init__(self, model: Model, log: str | Path) -> None:
        self._model = model
        self._log = Path(log)
        self._prompt = (resources.files("agentdistill.grading") / "judge.txt").read_text(encoding="utf-8").strip()
        version = hashlib.sha256(self._prompt.encode()).hexdigest()[:8]
        self._grader = f"judge-{version}:{model.name}"
        self._replies = self._logged()

    async def __call__(self, task: Task, answer: str | None) -> Grade:
        """Grade an answer. Raises ModelError when the model cannot be had."""
        if task.kind == "math":
            return await grade_by_kind(task, answer)
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
        """What the model replied before, by what it was asked."""
        if not self._log.exists():
            return {}
        replies: dict[str, str] = {}
        for line in self._log.read_text(encoding="utf-8").split("\n"):
            try:
                known = json.loads(line)
            except json.JSONDecodeError:  # the end of a file, or half a line that a kill left
                continue
            if known["grader"] == self._grader:
                replies[known["messages"][-1][1]] = known["reply"]
        return replies

    def _keep(self, **known: object) -> None:
        with self._log.open("a+b") as file:
            if file.tell() and (file.seek(-1, 2), file.read())[1] != b"\n":
                file.write(b"\n")
            file.write(json.dumps(known).encode() + b"\n")
