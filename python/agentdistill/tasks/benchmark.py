"""Find the paper's eight test sets by name, and map their fields.

A name can be used instead of a task file. ``data/hotpotqa`` looks in the folder ``data`` for the file of the paper's
repository (``hotpotqa_500_20250422.json``), or for a folder ``hotpotqa`` saved by Hugging Face's ``datasets`` or copied
from the hub. ``hotpotqa`` alone looks in the current folder in the same way, and then on the hub. The paper's files
have 500 questions of the larger sets; those of the hub are complete.

Your own folders of data sets, with the columns question and answer, are read here as well. Not here: what makes a row
a task (loading.py).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from agentdistill.extras import require

if TYPE_CHECKING:
    from agentdistill.tasks.task import Kind


class Benchmark(NamedTuple):
    """A test set: how its answers are compared, and where to find it."""

    kind: "Kind"
    file: str
    """Prefix of its file name in the paper's repository; a date follows."""
    hub: str
    split: str
    id: str | None = None
    """Its field for ids; None to number the rows from 0."""
    subsets: tuple[str | None, ...] = (None,)
    """The subsets ("configurations") on the hub that make up the set."""


BENCHMARKS: Mapping[str, Benchmark] = {
    "hotpotqa": Benchmark("fact", "hotpotqa_500", "hotpotqa/hotpot_qa", "validation", id="id", subsets=("distractor",)),
    "bamboogle": Benchmark("fact", "bamboogle_125", "chiayewken/bamboogle", "test"),
    "musique": Benchmark("fact", "musique_500", "dgslibisey/MuSiQue", "validation", id="id"),
    "2wiki": Benchmark("fact", "2wikimultihopqa_500", "framolfese/2WikiMultihopQA", "validation", id="id"),
    "math500": Benchmark("math", "math_500", "HuggingFaceH4/MATH-500", "test", id="unique_id"),
    "gsm_hard": Benchmark("math", "gsm_hard_500", "reasoning-machines/gsm-hard", "train"),
    "aime": Benchmark("math", "aime_90", "AI-MO/aimo-validation-aime", "train", id="id"),
    "olymmath": Benchmark(
        *("math", "olymath_200", "RUC-AIBOX/OlymMATH", "test"),
        id="unique_id",
        subsets=("en-easy", "en-hard"),
    ),
}

ALIASES = ("golden_answers", "answer_aliases", "aliases")
"""Fields with lists of correct answers. FlashRAG's ``golden_answers`` is also the answer of a task without one."""


def located(path: Path) -> Path:
    """``path`` itself or, if its last part is the name of a benchmark, the file that it refers to; the newest if there
    are several."""
    if not (benchmark := BENCHMARKS.get(path.name)) or path.exists():
        return path
    files = sorted(path.parent.glob(f"{benchmark.file}_*.json"))
    return files[-1] if files else path


def is_dataset(path: Path) -> bool:
    """Whether ``path`` is a folder or a name to look up on the hub, and not a file."""
    return path.is_dir() or (path.name in BENCHMARKS and not path.exists())


def dataset_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the values of each row of a data set. Those of a benchmark have an id.

    Lists and records, such as the passages of a question, are left out, except answers. Raises
    OSError if the data set is not available, ValueError if it is not a benchmark and has several splits.
    """
    benchmark = BENCHMARKS.get(path.name)
    if not path.exists() and path.parent != Path():
        raise FileNotFoundError(f"{path.parent} has no {path.name}: {_advice(path.name)}")
    require("datasets", "benchmarks")
    from datasets import Value

    number = 0
    for dataset in _load(path, benchmark):
        columns = dataset.features.items()
        read = [name for name, kind in columns if isinstance(kind, Value) or name in ("question", "answer", *ALIASES)]
        for row in dataset.select_columns(read):
            if benchmark:
                named = {"id": row.pop(benchmark.id)} if benchmark.id in row else {}
                row = {"id": number} | row | named
            yield f"{path}: row {number}", row
            number += 1


def _load(path: Path, benchmark: Benchmark | None) -> list[Any]:
    """Load the data sets that make up a set, with the ``datasets`` library."""
    from datasets import load_dataset, load_from_disk

    split = benchmark.split if benchmark else None
    subsets = benchmark.subsets if benchmark else (None,)
    if path.is_dir():
        saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
        try:
            found = [load_from_disk(path)] if saved else [load_dataset(str(path), subset) for subset in subsets]
        except Exception as error:  # of any type, because `datasets` parses whatever is in the folder
            why = " ".join(str(error.__cause__ or error).split())
            raise ValueError(
                f"{path}: this folder cannot be loaded as a data set ({why}): give a folder with Parquet, JSON or CSV "
                "files, one that save_to_disk wrote, or a task file"
            ) from error
        return [_one_split(each, split, path) for each in found]
    assert benchmark
    try:
        return [load_dataset(benchmark.hub, subset, split=split) for subset in subsets]
    except (OSError, ValueError) as error:
        raise OSError(
            f"{path}: {benchmark.hub} cannot be loaded from the hub ({error}), and is not in the cache: "
            f"go online once, or {_advice(path.name)}"
        ) from error


def _advice(name: str) -> str:
    benchmark = BENCHMARKS[name]
    return (
        f"give FOLDER/{name}, where FOLDER contains {benchmark.file}_*.json from the paper's repository, or a folder "
        f"{name} with a copy of {benchmark.hub} from the hub"
    )


def _one_split(dataset: Any, split: str | None, path: Path) -> Any:
    """The split to use, or the only one."""
    if not isinstance(dataset, dict):
        return dataset
    if split in dataset or len(dataset) == 1:
        return dataset[split if split in dataset else next(iter(dataset))]
    raise ValueError(f"{path} has several splits, {', '.join(dataset)}: save the one to use as a separate folder")
