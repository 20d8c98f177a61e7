"""Evaluation of a model on unseen tasks: rollouts, a grader, and a table of accuracies with intervals, by task set.

The rollout is the same as for training data, greedy or with self-consistent actions. Not here: plots and pages
(report.py), and regrading an evaluation (regrading.py).
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agentdistill._core import Trajectory, read_header, read_trajectories
from agentdistill.files.replacing import has_fields, refuse_foreign
from agentdistill.grading.grade import Grader, task_of
from agentdistill.grading.graders import graded, grader_of
from agentdistill.grading.squad import f1
from agentdistill.models.loading import training_of
from agentdistill.models.model import Model
from agentdistill.results.page import table
from agentdistill.rollouts.engine import check_complete, rollout
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.rollouts.wording import ConversationForm
from agentdistill.tasks.task import Task
from agentdistill.terminal import in_columns
from agentdistill.tools.tool import Tool
from agentdistill.trajectories import is_right, is_undecided, write_trajectories

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SetResult:
    """The result on one task set."""

    task_set: str
    n: int
    """Number of tasks. With ``allow_missing``, it includes tasks without an episode, which count as wrong."""
    correct: int
    accuracy: float
    """``correct`` divided by ``n``."""
    low: float
    """Lower end of the accuracy's 95 % interval (Wilson)."""
    high: float
    f1: float | None
    """Mean overlap in words with the correct answer; None if no task is a fact."""
    outcomes: dict[str, int]
    """Outcome -> number of episodes, largest first. All outcomes except "final_answer" are failures."""
    steps: float
    """Mean number of steps per episode."""
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    """Mean time per episode, while others run at the same time."""
    undecided: int = 0
    """Answers on which the grader could not decide: they count in ``n``, but not as correct."""
    timeouts: int = 0
    """Cells of all candidates that exceeded their time limit. If there are many, the limit may be too low."""


_HEADER = ("task set", "n", "accuracy", "95 % interval", "F1", "steps", "failures")


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation. ``str()`` and notebooks show it as a table."""

    model: str
    settings: dict[str, Any]
    """The resolved configuration."""
    graders: list[str]
    """Names and versions. Scores of different graders are not comparable."""
    accuracy: float
    """Mean over the task sets, each with the same weight, as in the paper."""
    sets: list[SetResult]

    def to_json(self) -> str:
        """Everything, as JSON."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def load(cls, path: Path) -> "Evaluation":
        """Load ``results.json``. Raises OSError if it does not exist, ValueError for any other file."""
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            return cls(**known | {"sets": [SetResult(**result) for result in known["sets"]]})
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path.parent} has no {path.name}: finish its evaluation first") from error
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} was not written by an evaluation ({error})") from error

    def save(self, folder: Path) -> None:
        """Write ``results.json`` and ``results.txt``."""
        (folder / "results.json").write_text(self.to_json() + "\n", encoding="utf-8")
        (folder / "results.txt").write_text(f"{self}\n", encoding="utf-8")

    def regraded(self, trajectories: Sequence[Trajectory]) -> "Evaluation":
        """The results with the current grades of its trajectories.

        Raises ValueError if they belong to another evaluation.
        """
        counts = Counter(trajectory.task_set for trajectory in trajectories)
        if other := [name for name, n in counts.items() if n > {s.task_set: s.n for s in self.sets}.get(name, 0)]:
            raise ValueError(f"there are more trajectories of {other[0]!r} than results: evaluate all of them first")
        correct = Counter(t.task_set for t in trajectories if is_right(t))
        undecided = Counter(t.task_set for t in trajectories if is_undecided(t))
        sets = [_counted(result, correct[result.task_set], undecided[result.task_set]) for result in self.sets]
        return replace(self, graders=_graders(trajectories), accuracy=_mean(sets), sets=sets)

    def __str__(self) -> str:
        return in_columns([_HEADER, *self._rows()])

    def _repr_html_(self) -> str:
        """The table for a notebook."""
        return table(_HEADER, self._rows())

    def _rows(self) -> list[tuple[str, ...]]:
        rows = [_row(result) for result in self.sets]
        if len(self.sets) > 1:
            rows.append(("mean", str(sum(result.n for result in self.sets)), f"{self.accuracy:.1%}", "", "", "", ""))
        return rows


def evaluate(
    tasks: Sequence[Task],
    model: Model | str,
    tools: Sequence[Tool] = (),
    config: RolloutConfig | None = None,
    *,
    output: str | Path | None = None,
    grader: Grader | str | None = None,
    allow_missing: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Let ``model`` solve ``tasks`` and measure its accuracy by task set.

    Greedy by default; ``candidates=8`` in ``config`` adds self-consistent actions. ``output`` is a folder for
    ``trajectories.jsonl``, ``results.json``, ``results.txt`` and ``metrics.json`` (see ``rollout``). An evaluation that
    was stopped resumes, and a folder with other settings is refused. ``grader``, as for ``regrade``, grades all answers
    after the rollouts; by default answers are graded by the kind of their task (see ``grade``).

    An episode that failed for an external reason, such as a server that was down, is missing, and the next call repeats
    it. If any is missing, there are no results, unless ``allow_missing`` counts it as wrong.

    Raises ValueError for a task without an answer or an invalid grader, ModelError for a judge that is not available,
    AgentDistillError if episodes are missing, and what ``rollout`` raises.
    """
    config = config or RolloutConfig()
    if unknown := [task.id for task in tasks if task.answer is None]:
        raise ValueError(f"task {unknown[0]!r} has no answer to compare a model's answer with")
    file = metrics = None
    if output is not None:
        output = Path(output)
        output.mkdir(parents=True, exist_ok=True)
        refuse_foreign_results(output)
        file, metrics = output / "trajectories.jsonl", output / "metrics.json"
    _warn_of_other_form(model, config, tools)
    named_grader = (
        grader_of(grader, file) if grader is not None else None
    )  # now, so that an error appears before hours of work
    trajectories = rollout(
        tasks, model, tools, config, output=file, progress=progress, metrics=metrics, title="evaluate"
    )
    if not allow_missing:
        check_complete(trajectories, file, " With allow_missing they count as wrong.")
    if named_grader:
        with named_grader as grade:
            recorded = [task_of(known, task.kind) for known, task in zip(trajectories, tasks, strict=True)]
            trajectories = graded(trajectories, recorded, grade, progress=progress)
        if file:
            _replace(trajectories, file)
    else:
        _warn_of_several_graders(tasks, trajectories)
    name = trajectories[0].model if trajectories else str(model)
    evaluation = summarize(tasks, trajectories, name, config.settings())
    if output is not None:
        evaluation.save(output)
    return evaluation


def refuse_foreign_results(folder: Path) -> None:
    """Raise FileExistsError if the files that ``Evaluation.save`` writes exist, and are of another program."""
    refuse_foreign(folder / "results.json", has_fields("accuracy", "sets"))
    refuse_foreign(folder / "results.txt", lambda file: file.with_suffix(".json").exists())


def summarize(
    tasks: Sequence[Task], trajectories: Sequence[Trajectory], model: str, settings: dict[str, Any]
) -> Evaluation:
    """The evaluation for graded ``trajectories``, one for each of ``tasks``, in the same order."""
    by_set: dict[str, list[tuple[Task, Trajectory]]] = {}
    for task, trajectory in zip(tasks, trajectories, strict=True):
        by_set.setdefault(task.task_set, []).append((task, trajectory))
    sets = [_set_result(name, pairs) for name, pairs in by_set.items()]
    return Evaluation(model, settings, _graders(trajectories), _mean(sets), sets)


def _replace(trajectories: Sequence[Trajectory], file: Path) -> None:
    """Replace trajectories in a file by those with the same ids; all others stay."""
    new = {trajectory.task_id: trajectory for trajectory in trajectories}
    known = read_trajectories(file)
    write_trajectories([new.get(old.task_id, old) for old in known], read_header(file) or "{}", file)


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927). It works for few tasks, and for proportions near 0 and 1.

    >>> [round(end, 3) for end in wilson_interval(5, 10)]
    [0.237, 0.763]
    """
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    middle = (correct + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(correct * (n - correct) / n + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def _warn_of_other_form(model: Model | str, config: RolloutConfig, tools: Sequence[Tool]) -> None:
    """Warn if the conversation form differs from the one that the student was trained with, where it does best."""
    trained = training_of(model) if isinstance(model, str) else None
    forms = [ConversationForm(**form) for form in (trained or {}).get("forms", ())]
    described = config.wording.describe_tools(tools, config.action_format)
    evaluated = ConversationForm(config.system_prompt, described, config.compat, config.action_format)
    if forms and evaluated not in forms:
        differ = min((form.differences(evaluated) for form in forms), key=len)
        _log.warning("%s was trained with another %s than this evaluation uses", model, " and ".join(differ))


def _warn_of_several_graders(tasks: Sequence[Task], trajectories: Sequence[Trajectory]) -> None:
    """Warn if resumed episodes were regraded by another grader since."""
    for kind in sorted({task.kind for task in tasks}):
        graders = _graders([known for known, task in zip(trajectories, tasks, strict=True) if task.kind == kind])
        if len(graders) > 1:
            _log.warning(
                "these scores are not comparable: answers of the kind %s were graded by %s. Give --grader, or "
                "regrade all of them (agentdistill grade)",
                kind,
                " and ".join(graders),
            )


def _graders(trajectories: Sequence[Trajectory]) -> list[str]:
    return sorted({trajectory.grader for trajectory in trajectories if trajectory.grader})


def _mean(sets: Sequence[SetResult]) -> float:
    return sum(result.accuracy for result in sets) / len(sets) if sets else 0.0


def _counted(result: SetResult, correct: int, undecided: int) -> SetResult:
    low, high = wilson_interval(correct, result.n)
    return replace(result, correct=correct, accuracy=correct / result.n, low=low, high=high, undecided=undecided)


def _set_result(name: str, pairs: list[tuple[Task, Trajectory]]) -> SetResult:
    n = len(pairs)
    correct = sum(is_right(trajectory) for _, trajectory in pairs)
    low, high = wilson_interval(correct, n)
    overlaps = [
        max(f1(right, trajectory.answer or "") for right in task.answers or ("",))
        for task, trajectory in pairs
        if task.kind == "fact"
    ]
    trajectories = [trajectory for _, trajectory in pairs]
    return SetResult(
        task_set=name,
        n=n,
        correct=correct,
        accuracy=correct / n,
        low=low,
        high=high,
        f1=sum(overlaps) / len(overlaps) if overlaps else None,
        outcomes=dict(Counter(trajectory.outcome for trajectory in trajectories).most_common()),
        steps=sum(len(trajectory.steps) for trajectory in trajectories) / n,
        prompt_tokens=sum(trajectory.usage[0] for trajectory in trajectories),
        completion_tokens=sum(trajectory.usage[1] for trajectory in trajectories),
        seconds=sum(trajectory.seconds for trajectory in trajectories) / n,
        undecided=sum(map(is_undecided, trajectories)),
        timeouts=sum(
            candidate.observation is not None and candidate.observation.kind == "timeout"
            for trajectory in trajectories
            for step in trajectory.steps
            for candidate in step.candidates
        ),
    )


def _row(result: SetResult) -> tuple[str, ...]:
    failed = {kind: count for kind, count in result.outcomes.items() if kind != "final_answer"}
    failed |= {"not_graded": result.undecided} if result.undecided else {}
    failed |= {"cells timed out": result.timeouts} if result.timeouts else {}
    failures = ", ".join(f"{kind} {count}" for kind, count in failed.items())
    return (
        result.task_set,
        str(result.n),
        f"{result.accuracy:.1%}",
        f"{result.low:.1%} - {result.high:.1%}",
        "" if result.f1 is None else f"{result.f1:.1%}",
        f"{result.steps:.1f}",
        failures,
    )
