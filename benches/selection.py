"""Does it help to ask more of training data than the paper does? Each option of selection, and of weights by span, in
the demo's world: the accuracy of the student that it gives, over several worlds.

    python benches/selection.py runs/selection             # 3 worlds; goes on where it was stopped
    python benches/selection.py runs/selection --seeds 5   # two more, on top of those there

The demo's scripted teacher trains an expert (M) in a world of its own. In each of the others the expert, which draws
tokens like any LLM, solves the training tasks K times over. The arms differ in what a student (S) learns from these
same samples, and in nothing else. Shown: the mean accuracy over the worlds with Student's 95 % interval, and the same
of its difference from the paper's rule in the same world, which says more.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agentdistill import Bm25Index, evaluate, generate, load_model, select, train
from agentdistill.demo.run import BASE, DemoConfig, World, make_world
from agentdistill.demo.teacher import teacher
from agentdistill.distillation import GenerateConfig, SelectConfig
from agentdistill.event_loop import run_blocking
from agentdistill.models.model import Model
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.tools.tool import Tool, web_search

EXPERT, STUDENT = "M", "S"
SAMPLES, TEMPERATURE = 4, 0.7

ARMS: dict[str, tuple[SelectConfig, dict[str, float]]] = {
    "paper": (SelectConfig(), {}),
    "likeliest": (SelectConfig(student=str(BASE / STUDENT), prompt=""), {}),
    "grounded": (SelectConfig(grounded=True), {}),
    "distinct": (SelectConfig(distinct=True), {}),
    "max-steps-3": (SelectConfig(max_steps=3), {}),
    "thoughts-x2": (SelectConfig(), {"thought_weight": 2.0}),
    "actions-x2": (SelectConfig(), {"action_weight": 2.0, "answer_weight": 2.0}),
    "answers-x2": (SelectConfig(), {"answer_weight": 2.0}),
}
"""What is asked of the samples, and how their spans are weighed."""

T_975 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Student's t of a two-sided 95 % interval, by number of worlds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", type=int, choices=T_975, default=3, help="worlds")
    parser.add_argument("--train-tasks", type=int, default=DemoConfig.train_tasks)
    parser.add_argument("--test-tasks", type=int, default=DemoConfig.test_tasks, help="of each of the four sets")
    given = parser.parse_args()
    folder = given.output / f"{given.train_tasks}-{given.test_tasks}"
    expert = expert_of(DemoConfig(), given.output / EXPERT)
    worlds = [
        in_one_world(DemoConfig(seed=seed, train_tasks=given.train_tasks, test_tasks=given.test_tasks), expert, folder)
        for seed in range(1, given.seeds + 1)
    ]
    table = Table("arm", "kept", "accuracy", "difference from the paper's rule", title=f"{given.seeds} worlds")
    for arm in ARMS:
        kept = statistics.mean(world[arm][0] for world in worlds)
        accuracies = [world[arm][1] for world in worlds]
        gains = [world[arm][1] - world["paper"][1] for world in worlds]
        gained = "" if arm == "paper" else f"{statistics.mean(gains):+.1%} ± {half_width(gains):.1%}"
        table.add_row(arm, f"{kept:.0f}", f"{statistics.mean(accuracies):.1%} ± {half_width(accuracies):.1%}", gained)
    Console().print(table)


def expert_of(config: DemoConfig, folder: Path) -> Path:
    """The demo's own agent of that size."""
    world, tools = world_of(config, folder)
    script = teacher(world.entities, config.error_rate, config.seed)
    how = GenerateConfig(first_thought_prefix=True, seed=config.seed)
    generate(world.train, script, tools, how, output=folder / "teacher.jsonl")
    select(folder / "teacher.jsonl", folder / "kept.jsonl")
    return train(folder / "kept.jsonl", BASE / EXPERT, folder / "expert", config.training)


def world_of(config: DemoConfig, folder: Path) -> tuple[World, list[Tool]]:
    """A world, and its search, whose index is kept in the folder."""
    world = make_world(config)
    if not (folder / "index").exists():
        Bm25Index.build([entity.passage for entity in world.entities], folder / "index")
    return world, [web_search(Bm25Index.open(folder / "index"))]


def in_one_world(config: DemoConfig, expert: Path, folder: Path) -> dict[str, tuple[int, float]]:
    """For each arm, the trajectories kept and the accuracy of the student, a mean over the four sets."""
    folder = folder / f"world-{config.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    world, tools = world_of(config, folder)
    training = replace(config.training, seed=config.seed)
    asking = GenerateConfig(prompt="", samples=SAMPLES, temperature=TEMPERATURE, max_tokens=config.max_tokens)
    model = load(expert)
    samples = generate(world.train, model, tools, asking, output=folder / "samples.jsonl")
    run_blocking(model.close())

    found = {}
    for arm, (asked, weights) in ARMS.items():
        kept = select(samples, folder / f"{arm}.jsonl", asked).kept
        student = load(train(folder / f"{arm}.jsonl", BASE / STUDENT, folder / arm, replace(training, **weights)))
        exam = RolloutConfig(prompt="", max_tokens=config.max_tokens)
        accuracy = evaluate(world.test, student, tools, exam, output=folder / f"{arm}.results").accuracy
        run_blocking(student.close())
        found[arm] = len(kept), accuracy
        print(f"world {config.seed}, {arm}: {len(kept)} kept, accuracy {accuracy:.1%}", flush=True)
    return found


def load(folder: Path) -> Model:
    """On the CPU, where such small models are quickest."""
    return load_model(f"transformers:{folder}", device="cpu")


def half_width(values: list[float]) -> float:
    """Of the 95 % interval of their mean."""
    return T_975[len(values)] * statistics.stdev(values) / len(values) ** 0.5


if __name__ == "__main__":
    main()
