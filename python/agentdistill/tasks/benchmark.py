"""The paper's eight test sets by name, so that nobody has to know where they lie and what their fields are called.

A name stands wherever a file of tasks may. Behind a folder, ``data/hotpotqa``, it is what the folder has of the set:
the file of the paper's repository (``hotpotqa_500_20250422.json``), or a folder ``hotpotqa`` that holds it as Hugging
Face's ``datasets`` saves it, or as the hub has it. Alone, ``hotpotqa``, it is looked for here in the same way, and else
on the hub. The paper's files hold 500 questions of the larger sets; the hub's are whole.

Folders of data sets of one's own, with question and answer as columns, are read here too. Not here: what makes a row a
task (task.py).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from agentdistill.extras import need

if TYPE_CHECKING:
    from agentdistill.tasks.task import Kind


class Benchmark(NamedTuple):
    """A test set: how its answers are compared, and where it is."""

    kind: "Kind"
    file: str
    """How its file in the paper's repository begins; a date follows."""
    hub: str
    split: str
    question: str = "question"
    answer: str = "answer"
    id: str | None = None
    """Its field for ids; None: the number of the row, from 0."""
    subsets: tuple[str | None, ...] = (None,)
    """Those of the hub's subsets ("configurations") that make it up."""


BENCHMARKS: Mapping[str, Benchmark] = {
    "hotpotqa": Benchmark("fact", "hotpotqa_500", "hotpotqa/hotpot_qa", "validation", id="id", subsets=("distractor",)),
    "bamboogle": Benchmark("fact", "bamboogle_125", "chiayewken/bamboogle", "test", "Question", "Answer"),
    "musique": Benchmark("fact", "musique_500", "dgslibisey/MuSiQue", "validation", id="id"),
    "2wiki": Benchmark("fact", "2wikimultihopqa_500", "framolfese/2WikiMultihopQA", "validation", id="id"),
    "math500": Benchmark("math", "math_500", "HuggingFaceH4/MATH-500", "test", "problem", id="unique_id"),
    "gsm_hard": Benchmark("math", "gsm_hard_500", "reasoning-machines/gsm-hard", "train", "input", "target"),
    "aime": Benchmark("math", "aime_90", "AI-MO/aimo-validation-aime", "train", "problem", id="id"),
    "olymmath": Benchmark(
        *("math", "olymath_200", "RUC-AIBOX/OlymMATH", "test", "problem"),
        id="unique_id",
        subsets=("en-easy", "en-hard"),
    ),
}


def located(path: Path) -> Path:
    """Where tasks are: ``path`` itself, or the file that it stands for if its last part is a benchmark's name. The
    newest counts, where a folder has several."""
    if not (benchmark := BENCHMARKS.get(path.name)) or path.exists():
        return path
    files = sorted(path.parent.glob(f"{benchmark.file}_*.json"))
    return files[-1] if files else path


def is_dataset(path: Path) -> bool:
    """Whether it is not a file to be read, but a folder, or a name to be looked up on the hub."""
    return path.is_dir() or (path.name in BENCHMARKS and not path.exists())


def dataset_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row of a data set is, and its values: question, answer and id under these names; lists and records but
    ``answer_aliases``, such as the passages of a question, are left out. Raises OSError for one that cannot be had,
    ValueError for one of several splits that is no benchmark."""
    benchmark = BENCHMARKS.get(path.name)
    if not path.exists() and path.parent != Path():
        raise FileNotFoundError(f"{path.parent} has no {path.name}: {_advice(path.name)}")
    need("datasets", "benchmarks")
    from datasets import Value

    number = 0
    for dataset in _load(path, benchmark):
        columns = dataset.features.items()
        read = [name for name, kind in columns if isinstance(kind, Value) or name == "answer_aliases"]
        for row in dataset.select_columns(read):
            yield f"{path}: row {number}", _named(row, number, benchmark) if benchmark else row
            number += 1


def _named(row: dict[str, Any], number: int, benchmark: Benchmark) -> dict[str, Any]:
    """The row, with its fields as tasks call them."""
    fields = {"question": benchmark.question, "answer": benchmark.answer, "id": benchmark.id}
    known = {name: row.pop(field) for name, field in fields.items() if field in row}
    return {"id": number} | row | known


def _load(path: Path, benchmark: Benchmark | None) -> list[Any]:
    """The data sets of the ``datasets`` library that make it up."""
    from datasets import load_dataset, load_from_disk

    split = benchmark.split if benchmark else None
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return [_one_split(load_from_disk(str(path)), split, path)]
    subsets = benchmark.subsets if benchmark else (None,)
    if path.is_dir():
        return [_one_split(load_dataset(str(path), subset), split, path) for subset in subsets]
    assert benchmark
    try:
        return [load_dataset(benchmark.hub, subset, split=split) for subset in subsets]
    except (OSError, ValueError) as error:
        raise OSError(
            f"{path}: the hub's {benchmark.hub} cannot be had ({error}), and is not in the cache of an earlier time: "
            f"go online once, or {_advice(path.name)}"
        ) from error


def _advice(name: str) -> str:
    benchmark = BENCHMARKS[name]
    return (
        f"give FOLDER/{name}, where FOLDER holds {benchmark.file}_*.json of the paper's repository, or a folder {name} "
        f"with what the hub has as {benchmark.hub}"
    )


def _one_split(dataset: Any, split: str | None, path: Path) -> Any:
    """Of a data set with splits the one asked for, or the only one."""
    if not isinstance(dataset, dict):
        return dataset
    if split in dataset or len(dataset) == 1:
        return dataset[split if split in dataset else next(iter(dataset))]
    raise ValueError(f"{path} has several splits, {', '.join(dataset)}: save the one to be used as a folder of its own")
