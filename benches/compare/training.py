"""Training beside a plain transformers + PEFT loop and plain TRL, on the same examples: tokens a second, and memory.

    python benches/compare/training.py ../models/smollm2-135m-instruct                # 4 steps, 3 rounds
    python benches/compare/training.py PATH_OR_ID --steps 8 --rounds 5 --ways plain agentdistill

Solutions of GSM8K with code, as a 70B model wrote them (../shared/data/teacher_logs): the first of them make so many
steps of the optimizer, in batches of 8. Question and output are given, thought, code and answer are learnt; LoRA of
rank 64 on all linear layers. A round trains by each way in turn, from the base, each time in a process of its own, so
that the memory is its own. Shown: the median of tokens a second over the rounds, without padding, its ratio to the
plain loop's in float32, and the most memory that a process had, with libraries, model and saving.

- plain: batches as they come, padded to their longest, the loss of the model itself; in float32
- autocast: the same under autocast to bfloat16
- TRL: SFTTrainer, with the same batches, bfloat16 where the processor has it, and no checkpointing of activations
- agentdistill: as ``train`` does it by default, and with ``--packing``
"""

import argparse
import gzip
import json
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentdistill import train
from agentdistill.training.config import TrainConfig
from agentdistill.training.examples import Example, load_tokenizer

LOG = Path(__file__).parents[3] / "shared" / "data" / "teacher_logs" / "tora_70b_gsm8k_test.jsonl.gz"
BATCH, RANK, ALPHA, DROPOUT, RATE = 8, 64, 128, 0.05, 2e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)  # in a process of its own
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given.one, given.model, given.steps)))
        return
    runs: dict[str, list[tuple[float, float]]] = {way: [] for way in given.ways}
    for _ in range(given.rounds):
        for way in given.ways:
            command = [sys.executable, __file__, given.model, "--steps", str(given.steps), "--one", way]
            said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            runs[way].append(tuple(json.loads(said.splitlines()[-1])))
            print(f"{way}: {runs[way][-1][0]:.0f} tokens/s, {runs[way][-1][1]:.1f} GB", file=sys.stderr, flush=True)
    rates = {way: statistics.median(rate for rate, _ in found) for way, found in runs.items()}
    print(f"{'':14}{'tokens/s':>10}{'from, to':>16}{'ratio':>8}{'GB':>7}")
    for way, found in runs.items():
        low, high = min(rate for rate, _ in found), max(rate for rate, _ in found)
        ratio = f"{rates[way] / rates['plain']:8.2f}" if "plain" in rates else f"{'':8}"
        memory = max(memory for _, memory in found)
        print(f"{way:14}{rates[way]:10,.0f}{low:8,.0f}{high:8,.0f}{ratio}{memory:7.1f}")


def measured(way: str, model: str, steps: int) -> tuple[float, float]:
    """Tokens a second, and the most memory in GB, of training so in this process."""
    examples = load_examples(model, steps * BATCH)
    with tempfile.TemporaryDirectory() as folder:
        seconds = WAYS[way](examples, model, Path(folder) / "student")
    tokens = sum(len(example["input_ids"]) for example in examples)
    return tokens / seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def load_examples(model: str, n: int) -> list[Example]:
    """The first of the right solutions, shuffled."""
    tokenizer = load_tokenizer(model)

    def encoded(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    examples = []
    with gzip.open(LOG, "rt", encoding="utf-8") as lines:
        records = [record for record in map(json.loads, lines) if record["pred"][0] == record["gt"]]
    for record in random.Random(0).sample(records, n):
        asked = [{"role": "user", "content": record["question"]}]
        ids = encoded(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
        example = Example(input_ids=ids, completion_mask=[0] * len(ids))
        for part in re.split(r"(```output\n.*?```)", f"{record['code'][0]}{tokenizer.eos_token}", flags=re.DOTALL):
            ids = encoded(part)
            example["input_ids"] += ids
            example["completion_mask"] += [int(not part.startswith("```output"))] * len(ids)
        examples.append(example)
    return examples


def by_loop(examples: list[Example], model: str, *, autocast: bool) -> float:
    """Seconds of the loop that everyone writes first."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    student = get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), lora()).train()
    learnt = [weights for weights in student.parameters() if weights.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=RATE, weight_decay=0.0)
    started = time.monotonic()
    for at in range(0, len(examples), BATCH):
        batch = examples[at : at + BATCH]
        width = max(len(example["input_ids"]) for example in batch)
        ids, attended, labels = (torch.full((len(batch), width), value) for value in (0, 0, -100))
        for n, example in enumerate(batch):
            length = len(example["input_ids"])
            ids[n, :length], attended[n, :length] = torch.tensor(example["input_ids"]), 1
            learnt_here = torch.tensor(example["completion_mask"], dtype=torch.bool)
            labels[n, :length][learnt_here] = ids[n, :length][learnt_here]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = student(input_ids=ids, attention_mask=attended, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.monotonic() - started


def by_trl(examples: list[Example], model: str, output: Path) -> float:
    """Seconds of plain TRL."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    from agentdistill.models.device import cpu_has_bfloat16

    labels = [[t if k else -100 for t, k in zip(e["input_ids"], e["completion_mask"], strict=True)] for e in examples]
    rows = [{"input_ids": e["input_ids"], "labels": found} for e, found in zip(examples, labels, strict=True)]
    settings = SFTConfig(
        output_dir=str(output),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=RATE,
        max_length=None,
        bf16=cpu_has_bfloat16(),
        use_cpu=True,
        gradient_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    weights = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    trainer = SFTTrainer(
        model=weights,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(model),
        peft_config=lora(),
    )
    return float(trainer.train().metrics["train_runtime"])


def by_us(examples: list[Example], model: str, output: Path, **options: Any) -> float:
    """Seconds of the training loop of ``train``, its checkpoint among them."""
    config = TrainConfig(epochs=1, rank=RANK, alpha=ALPHA, dropout=DROPOUT, learning_rate=RATE, **options)
    train(examples, model, output, config, progress=False)
    return float(json.loads((output / "train.json").read_text())["result"]["seconds"])


def lora() -> Any:
    from peft import LoraConfig

    target = "all-linear"
    return LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, target_modules=target, task_type="CAUSAL_LM")


PACKED = {"packing": True, "max_length": 1024, "batch_size": 3}
"""Rows of about three examples, so that a step is made of as many as elsewhere."""

WAYS: dict[str, Callable[[list[Example], str, Path], float]] = {
    "plain": lambda examples, model, output: by_loop(examples, model, autocast=False),
    "autocast": lambda examples, model, output: by_loop(examples, model, autocast=True),
    "TRL": by_trl,
    "agentdistill": by_us,
    "packed": lambda examples, model, output: by_us(examples, model, output, **PACKED),
}


if __name__ == "__main__":
    main()
