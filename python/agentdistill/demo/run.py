"""Run the demo's steps, from an empty folder to the paper's table. Each step is a function of the package.

    world, index  ->  generate  ->  select  ->  train (2 sizes x 2 ways)  ->  evaluate (3 arms)  ->  table, plots, page

Everything is in one folder. A demo that was stopped resumes, and a finished one only prints its table again. Not here:
the tasks and the teacher (world.py, teacher.py).
"""

import json
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.table import Table

from agentdistill._core import Bm25Index
from agentdistill.demo.page import write_page
from agentdistill.demo.teacher import teacher
from agentdistill.demo.world import LARGE, SMALL, Entity, Names, Question, Share, cluster, fact_question, problem
from agentdistill.distillation import GenerateConfig, generate, select
from agentdistill.event_loop import run_blocking
from agentdistill.models.loading import count_parameters, load_model
from agentdistill.results.evaluation import evaluate
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.tasks.task import Kind, Task
from agentdistill.tools.tool import Tool, web_search
from agentdistill.training.config import TrainConfig
from agentdistill.training.trainer import train

SETS = ("facts", "facts_in_domain", "arithmetic", "arithmetic_in_domain")
"""Unseen entities; entities from training; numbers too large to multiply by heart; small numbers."""

KINDS: tuple[Literal["cot", "agent"], ...] = ("cot", "agent")
"""Kinds of distillation: chain of thought (the baseline), and agent."""

ARMS = {"cot": ("cot",), "agent": ("agent", "agent+sag")}
"""How a student of each kind is evaluated."""

BASE = Path(__file__).parent / "base"


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo. The defaults took 4 minutes on two cores."""

    sizes: tuple[str, ...] = ("S", "M")
    """Students, of about 0.26 and 0.6 million parameters (paper: 0.5 to 7 billion)."""
    train_tasks: int = 1500
    """Number of training tasks (paper: 3,000)."""
    test_tasks: int = 100
    """Number of tasks per test set (paper: up to 500)."""
    known_clusters: int = 2
    """Clusters of ten entities that training asks about repeatedly, and "facts_in_domain" in different questions."""
    error_rate: float = 0.15
    """Share of episodes in which the teacher makes a mistake."""
    candidates: int = 8
    """N of self-consistent actions (paper: 8)."""
    max_tokens: int = 120
    """Maximum number of new tokens per completion (paper: 1,024): twice as many as a good one needs."""
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            method="full",
            learning_rate=1.2e-3,
            schedule="cosine",
            warmup=0.1,
            beta2=0.98,
            precision="float32",
            epochs=3,
            batch_size=8,
            max_length=1024,
            prompt="",
        )
    )
    """Full fine-tuning: with matrices of width 64 and 96, an adapter of the paper's rank 64 would hardly be smaller."""
    seed: int = 1
    """Seed of the world, its tasks and all sampling. Settings were tuned on other worlds."""


QUICK = DemoConfig(sizes=("S",), train_tasks=200, test_tasks=10, candidates=4)
"""Runs everything in about a minute, with too little training for the paper's result."""


def demo(
    output: str | Path = "runs/demo", *, quick: bool = False, config: DemoConfig | None = None, progress: bool = True
) -> list[dict[str, Any]]:
    """Run the demo in the folder ``output``. Print its table, and return the rows of ``results.json``.

    A row has ``arm`` (cot, agent, agent+sag), ``size``, ``parameters``, ``task_set`` ("all" for the mean over the
    sets), ``accuracy``, ``n`` (tasks), and ``seconds`` (of the evaluation). Raises ValueError for a folder with a demo
    of other settings.
    """
    config = config or (QUICK if quick else DemoConfig())
    output = Path(output)
    console = Console()
    _claim(output, config)

    world = make_world(config)
    _say(
        console,
        "World",
        f"{len(world.entities):,} passages, {len(world.train):,} training and {len(world.test)} test tasks",
    )
    tools = [web_search(_index(world.entities, output / "index"))]

    for kind in KINDS:
        _say(
            console,
            f"Teacher, {kind}",
            "a script, the only stand-in here; it makes mistakes, which selection drops",
        )
        generating = GenerateConfig(kind=kind, first_thought_prefix=kind == "agent", seed=config.seed)
        model = teacher(world.entities, config.error_rate, config.seed)
        generate(world.train, model, tools, generating, output=output / f"{kind}.jsonl", progress=progress)
        console.print(str(select(output / f"{kind}.jsonl", _kept(output, kind))))

    rows = _make_students(config, output, console, progress)
    (output / "results.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    console.print(table(rows))
    for line in comparisons(rows):
        console.print(line)
    page = write_page(rows, comparisons(rows), output, SETS)
    console.print(f"Plots and sample trajectories: {page}")
    console.print(f"Read all trajectories in the browser: agentdistill view {output / 'results'}")
    console.print(f"Intervals, significance and cost: agentdistill report {output / 'results'}/*")
    return rows


# ---- tasks ---------------------------------------------------------------------------------------


class World(NamedTuple):
    """The encyclopaedia and the tasks."""

    entities: list[Entity]
    """The encyclopaedia, with all shares."""
    train: list[Task]
    test: list[Task]


def make_world(config: DemoConfig) -> World:
    """Generate the encyclopaedia and the tasks, deterministically for a configuration."""
    rng = random.Random(config.seed)
    names = {owner: Names(rng, owner) for owner in ("train", "test")}
    known = [cluster(names["train"], rng) for _ in range(config.known_clusters)]
    entities = [entity for one in known for entity in one]

    def unseen(owner: Share) -> Question:
        new = cluster(names[owner], rng)
        entities.extend(new)
        return fact_question(new, rng.choice((2, 2, 3)), rng)

    def seen(hops: tuple[int, ...]) -> Question:
        return fact_question(rng.choice(known), rng.choice(hops), rng)

    taught = _distinct(
        config.train_tasks,
        "train",
        {
            "facts": lambda: unseen("train"),
            "facts_in_domain": lambda: seen((1, 2, 2, 3)),
            "arithmetic": lambda: problem(LARGE, "train", rng),
            "arithmetic_in_domain": lambda: problem(SMALL, None, rng),
        },
        without=set(),
    )
    asked = _distinct(
        config.test_tasks * len(SETS),
        "test",
        {
            "facts": lambda: unseen("test"),
            "facts_in_domain": lambda: seen((2, 2, 3)),
            "arithmetic": lambda: problem(LARGE, "test", rng),
            "arithmetic_in_domain": lambda: problem(SMALL, None, rng),
        },
        without={task.question for task in taught},
    )
    return World(entities, taught, asked)


def _distinct(n: int, share: Share, draw: dict[str, Callable[[], Question]], without: set[str]) -> list[Task]:
    """``n`` tasks, from each set in turn; no question twice in a test, none of ``without``."""
    tasks: list[Task] = []
    while len(tasks) < n:
        name = SETS[len(tasks) % len(SETS)]
        question = draw[name]()
        if question.text not in without:
            kind: Kind = "math" if name.startswith("arithmetic") else "fact"
            tasks.append(Task(f"{share}-{len(tasks)}", question.text, question.answer, name, kind))
    return tasks


# ---- steps ---------------------------------------------------------------------------------------


def _claim(output: Path, config: DemoConfig) -> None:
    """Reserve the folder for this demo. Raises ValueError if it belongs to a demo of other settings."""
    output.mkdir(parents=True, exist_ok=True)
    record = output / "demo.json"
    settings = json.dumps(asdict(config), indent=1) + "\n"
    if record.exists() and record.read_text(encoding="utf-8") != settings:
        raise ValueError(f"{output} contains a demo with other settings: give another output, or remove it")
    record.write_text(settings, encoding="utf-8")


def _index(entities: Sequence[Entity], path: Path) -> Bm25Index:
    if not path.exists():
        Bm25Index.build([entity.passage for entity in entities], path)
    return Bm25Index.open(path)


def _kept(output: Path, kind: str) -> Path:
    """The selected trajectories for students of this kind."""
    return output / f"{kind}.kept.jsonl"


def parameters(size: str) -> int:
    """Number of parameters of a base model."""
    return count_parameters(BASE / size)


def _make_students(config: DemoConfig, output: Path, console: Console, progress: bool) -> list[dict[str, Any]]:
    """Train and evaluate all students, several at once in processes, since a small one uses only one core."""
    students = [(size, kind) for kind in KINDS for size in config.sizes]
    cores = os.cpu_count() or 1
    workers = min(_MAX_WORKERS, cores, len(students))
    _say(console, "Students", f"{len(students)}, {workers} at once: {', '.join(f'{s}-{k}' for s, k in students)}")
    threads = (max(1, cores // workers),)
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_share_cores, initargs=threads) as pool:
        # The slowest first: agents, whose trajectories are long, and the largest sizes.
        made = {pool.submit(_make_student, *one, config, output, progress): one for one in reversed(students)}
        try:
            for future in as_completed(made):
                size, kind = made[future]
                rows[size, kind] = future.result()
                means = (f"{row['arm']} {row['accuracy']:.0%}" for row in rows[size, kind] if row["task_set"] == "all")
                _say(
                    console,
                    f"Student {size}, {kind} distillation",
                    f"{parameters(size):,} parameters: {', '.join(means)}",
                )
        finally:
            pool.shutdown(cancel_futures=True)
    return [row for size in config.sizes for kind in KINDS for row in rows[size, kind]]


_MAX_WORKERS = 3
"""Students trained at the same time. Each takes more than 1 GB of memory."""


def _share_cores(threads: int) -> None:
    """Set the environment of a worker process, before it imports torch and rich."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["TTY_COMPATIBLE"] = "0"  # lines, because several progress bars would overwrite each other


def _make_student(
    size: str, kind: Literal["cot", "agent"], config: DemoConfig, output: Path, progress: bool
) -> list[dict[str, Any]]:
    """Train one student, evaluate it in all its arms, and return its rows of the results."""
    student = train(
        _kept(output, kind), BASE / size, output / "students" / f"{size}-{kind}", config.training, progress=progress
    )
    test, tools = make_world(config).test, [web_search(Bm25Index.open(output / "index"))]
    return [row for arm in ARMS[kind] for row in _evaluate(student, size, arm, test, tools, config, output)]


def _evaluate(
    student: Path, size: str, arm: str, test: Sequence[Task], tools: Sequence[Tool], config: DemoConfig, output: Path
) -> list[dict[str, Any]]:
    """Evaluate one student in one arm, set by set, and return its rows. Finished evaluations are read from disk."""
    rollout = RolloutConfig(
        kind="cot" if arm == "cot" else "agent", prompt="", max_tokens=config.max_tokens, seed=config.seed
    )
    if arm == "agent+sag":
        rollout = replace(rollout, candidates=config.candidates)
    folder = output / "results" / f"{size}-{arm}"
    record = folder / "rows.json"
    if record.exists():
        recorded: list[dict[str, Any]] = json.loads(record.read_text(encoding="utf-8"))
        return recorded
    model = load_model(f"transformers:{student}", device="cpu", dtype="float32")
    rows: list[dict[str, Any]] = []
    for name in SETS:
        start = time.perf_counter()
        tasks = [task for task in test if task.task_set == name]
        result = evaluate(tasks, model, tools, rollout, output=folder / name, progress=False)
        row = {"arm": arm, "size": size, "parameters": parameters(size), "task_set": name, "accuracy": result.accuracy}
        rows.append({**row, "n": len(tasks), "seconds": round(time.perf_counter() - start, 2)})
    run_blocking(model.close())
    mean = sum(row["accuracy"] for row in rows) / len(rows)
    every = {"task_set": "all", "accuracy": mean, "n": sum(row["n"] for row in rows)}
    rows.append({**rows[0], **every, "seconds": round(sum(row["seconds"] for row in rows), 2)})
    record.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


# ---- what is shown -------------------------------------------------------------------------------


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Accuracies, a line per student and arm, the best mean of each size in bold."""
    shown = Table("student", "parameters", "arm", *SETS, "mean", title="Accuracy on the test sets")
    by_arm: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        by_arm.setdefault((row["size"], row["arm"]), {"parameters": row["parameters"]})[row["task_set"]] = row[
            "accuracy"
        ]
    for (size, arm), line in by_arm.items():
        cells = [f"{line[name]:.0%}" for name in (*SETS, "all")]
        shown.add_row(size, f"{line['parameters']:,}", arm, *cells, end_section=arm == "agent+sag")
    return shown


def comparisons(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The paper's claim on these results: each agent-distilled student against the next larger CoT-distilled one."""
    mean = {(row["size"], row["arm"]): row["accuracy"] for row in rows if row["task_set"] == "all"}
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    lines = []
    for small, large in pairwise(sizes):
        agent, chain = mean[small, "agent"], mean[large, "cot"]
        verdict = "beats" if agent > chain else "does not beat"
        lines.append(f"agent-distilled {small} ({agent:.0%}) {verdict} CoT-distilled {large} ({chain:.0%})")
    return lines


def _say(console: Console, what: str, more: str) -> None:
    console.print(f"[bold]{what}[/bold]  {more}")
