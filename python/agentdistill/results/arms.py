"""Load the runs that a report compares, each as an arm: its accuracy, cost, outcomes and agreement.

Not here: how they are shown (report.py).
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from os.path import commonpath
from pathlib import Path
from typing import Any, NamedTuple

from agentdistill._core import ParseFailure, Step, Trajectory, read_trajectories
from agentdistill.grading.grade import task_of
from agentdistill.results.evaluation import Evaluation, SetResult, summarize
from agentdistill.results.viewer import trajectory_files
from agentdistill.rollouts.progress import Metrics
from agentdistill.trajectories import is_right


class Arm(NamedTuple):
    """One run in the comparison, with the data to show."""

    name: str
    evaluation: Evaluation
    right: dict[tuple[str, str], bool]
    """(task set, task id) -> whether its answer was right."""
    cost: dict[str, Any]
    """As in ``metrics.json``."""
    steps: Counter[int]
    """Number of steps -> number of episodes."""
    cells: Counter[str]
    """Outcome of a candidate ("value", "final_answer", or a failure) -> number of candidates."""
    agreement: list[tuple[float, bool]]
    """For each episode with several candidates: the share that agreed in the last step, and whether the answer was
    right."""


def load_arm(run: Path, name: str) -> Arm:
    """Load the trajectories of one run."""
    trajectories = [trajectory for path in trajectory_files(run) for trajectory in read_trajectories(path)]
    if not trajectories:
        raise ValueError(f"{run} has no trajectories: did its evaluation stop before the first episode ended?")
    first, right = trajectories[0], dict[tuple[str, str], bool]()
    for trajectory in trajectories:
        key = trajectory.task_set, trajectory.task_id
        if (trajectory.model, _how(trajectory)) != (first.model, _how(first)):
            raise ValueError(f"{run} contains runs with different settings: give each folder separately")
        if trajectory.reference is None:
            raise ValueError(f"{run}: task {trajectory.task_id!r} has no correct answer to compare with")
        if key in right:
            raise ValueError(f"{run} has task {trajectory.task_id!r} of {trajectory.task_set!r} twice")
        right[key] = is_right(trajectory)
    metrics = Metrics(len(trajectories))
    for trajectory in trajectories:
        metrics.add(trajectory)
    settings = {key: value for key, value in first.sampling.items() if key != "tools"}
    voted = [(t, agreement) for t in trajectories if t.steps and (agreement := _agreed(t.steps[-1])) is not None]
    return Arm(
        name,
        summarize(list(map(task_of, trajectories)), trajectories, first.model, settings),
        right,
        metrics.to_dict(),
        Counter(len(trajectory.steps) for trajectory in trajectories),
        Counter(kind for trajectory in trajectories for kind in _cells(trajectory)),
        [(agreement, is_right(trajectory)) for trajectory, agreement in voted],
    )


def run_names(runs: Sequence[Path]) -> dict[Path, str]:
    """Short, distinct names for the runs, from the ends of their paths."""
    if twice := {str(run) for run in runs if runs.count(run) > 1}:
        raise ValueError(f"{', '.join(sorted(twice))} is given twice")
    bare = [run.resolve().with_suffix("") if run.is_file() else run.resolve() for run in runs]
    if len({path.name for path in bare}) == len(runs):
        return {run: path.name for run, path in zip(runs, bare, strict=True)}
    common = commonpath(bare)
    return {run: str(path.relative_to(common)) for run, path in zip(runs, bare, strict=True)}


def finished_training(run: Path) -> dict[str, Any] | None:
    """The content of ``train.json`` if the run is a finished training run."""
    record = run / "train.json"
    if not record.is_file():
        return None
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        settings, result = known["run"], known["result"]
        # The first versions recorded only losses, which they logged at step 1 and at every fifth step.
        at = [max(1, 5 * number) for number in range(len(result["losses"]))] if result else []
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ValueError(f"{record} was not written by train ({type(error).__name__}: {error})") from error
    if not result:
        raise ValueError(f"{run} is an unfinished training run: finish it or leave it out")
    unsaid = {"teacher": None, "logged_at": at, "held_out_losses": [], "held_out_at": []}
    return {**unsaid, **settings, **result}


def task_sets(arms: Sequence[Arm]) -> list[str]:
    """All task sets, in the order of the arms."""
    return list(dict.fromkeys(result.task_set for arm in arms for result in arm.evaluation.sets))


def result_of(arm: Arm, task_set: str) -> SetResult | None:
    """The arm's result on a task set; None if it has none."""
    return next((result for result in arm.evaluation.sets if result.task_set == task_set), None)


def _how(trajectory: Trajectory) -> dict[str, Any]:
    """The settings of an episode without its date."""
    return {name: value for name, value in trajectory.sampling.items() if name != "date"}


def _agreed(step: Step) -> float | None:
    """The share of a step's candidates that agreed with the winner; None if there was only one candidate."""
    if len(step.candidates) < 2:
        return None
    return step.votes[0][1] / len(step.candidates) if step.votes else 0.0


def _cells(trajectory: Trajectory) -> Iterator[str]:
    """The outcome of each candidate."""
    for step in trajectory.steps:
        for candidate in step.candidates:
            if isinstance(candidate.action, ParseFailure):
                yield candidate.action.kind
            elif candidate.observation is not None:
                yield candidate.observation.kind
