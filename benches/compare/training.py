"""Training beside plain TRL on the same conversations, in tokens a second: ours, ours packed, and TRL's own way.

    python benches/compare/training.py                        # the demo's smallest base, on this machine's CPU
    python benches/compare/training.py --model PATH_OR_ID     # another; where there is a GPU, on it

The same model, optimizer, batches and precision; all weights; the demo's teacher wrote the conversations. A round
trains by each in turn, from the base, for one epoch, and counts the seconds of the training loop (in ours a checkpoint
is among them). Shown: the median of the rounds, and its ratio to TRL's. TRL has a loss on every token here, as it does
when nothing tells it which are the assistant's.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from agentdistill import Bm25Index, Trajectory, generate, select, train
from agentdistill.demo.run import BASE, DemoConfig, make_world
from agentdistill.demo.teacher import teacher
from agentdistill.rollouts.prompt import assistant_turn
from agentdistill.tools.tool import web_search
from agentdistill.training.config import TrainConfig
from agentdistill.training.examples import load_tokenizer, to_examples

CONFIG = TrainConfig(method="full", learning_rate=1e-4, epochs=1, batch_size=8, device_batch_size=8, max_length=2048)
PACKED = TrainConfig(**{**vars(CONFIG), "packing": True, "batch_size": 2, "device_batch_size": 1})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(BASE / "S"))
    parser.add_argument("--tasks", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept = trajectories(DemoConfig(train_tasks=given.tasks), Path(folder))
        examples = to_examples(kept, load_tokenizer(given.model), prompt="").examples
        ours = sum(len(example["input_ids"]) for example in examples)

        def by_us(config: TrainConfig, output: Path) -> tuple[int, float]:
            train(examples, given.model, output, config, progress=False)
            return ours, json.loads((output / "train.json").read_text())["result"]["seconds"]

        ways: dict[str, Callable[[Path], tuple[int, float]]] = {
            "TRL": lambda output: by_trl(kept, given.model, output),
            "agentdistill": lambda output: by_us(CONFIG, output),
            "agentdistill, packed": lambda output: by_us(PACKED, output),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(given.rounds):
            for name, way in ways.items():
                tokens, seconds = way(Path(folder) / f"{number} {name}")
                rates[name].append(tokens / seconds)
    trl = statistics.median(rates["TRL"])
    print(f"{len(examples)} examples, {ours:,} tokens, {given.rounds} rounds")
    for name, found in rates.items():
        middle = statistics.median(found)
        print(
            f"{name:22}{middle:10,.0f} tokens/s  ({min(found):,.0f} - {max(found):,.0f})  {middle / trl:5.2f} times TRL"
        )


def trajectories(config: DemoConfig, folder: Path) -> list[Trajectory]:
    """What the demo's teacher writes, as far as it is kept."""
    world = make_world(config)
    index = Bm25Index.build([entity.passage for entity in world.entities], folder / "index")
    script = teacher(world.entities, config.error_rate, config.seed)
    return select(generate(world.train, script, [web_search(index)], progress=False)).kept


def by_trl(kept: list[Trajectory], model: str, output: Path) -> tuple[int, float]:
    """Tokens and seconds of plain TRL: it renders the conversations itself."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    gpu = torch.cuda.is_available()
    rows = [{"messages": [{"role": role, "content": text} for role, text in messages(t)]} for t in kept]
    settings = SFTConfig(
        output_dir=str(output),
        per_device_train_batch_size=CONFIG.batch_size,
        num_train_epochs=1,
        learning_rate=CONFIG.learning_rate,
        max_length=CONFIG.max_length,
        bf16=gpu,
        use_cpu=not gpu,
        gradient_checkpointing=gpu,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=5,
    )
    weights = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16 if gpu else torch.float32)
    tokenizer = load_tokenizer(model)
    trainer = SFTTrainer(
        model=weights, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    tokens = sum(len(ids) for ids in trainer.train_dataset["input_ids"])
    return tokens, trainer.train().metrics["train_runtime"]


def messages(trajectory: Trajectory) -> list[tuple[str, str]]:
    """The whole conversation, as the student is to see it."""
    said = [(assistant_turn(step.candidates[step.winner]), step.message) for step in trajectory.steps]
    turns = [turn for written, seen in said for turn in (("assistant", written), ("user", seen))]
    return [("user", trajectory.question), *turns[:-1]]


if __name__ == "__main__":
    main()
