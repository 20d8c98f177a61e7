"""Find the files of a Hugging Face hub id: in the hub's cache, or else by downloading them.

Not here: models' own weights, which the library that loads a model fetches, and the paper's test sets
(tasks/benchmark.py).
"""

import re
from pathlib import Path

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_DATA = (".parquet", ".arrow", ".jsonl", ".json")


def is_id(name: str) -> bool:
    """Whether a name may be a repository's, OWNER/NAME, and no file or folder has that name."""
    return bool(_ID.fullmatch(name)) and not Path(name).exists()


def adapter_of(name: str) -> Path | None:
    """The folder of the PEFT adapter in a model repository. None if the repository holds a model, or if it is neither
    in the cache nor reachable: then the library that loads it reports why."""
    try:
        from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
    except ImportError:
        return None
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return None
    try:
        hf_hub_download(name, "adapter_config.json")
        return Path(snapshot_download(name, allow_patterns=["adapter_config.json", "adapter_model.*"]))
    except (OSError, ValueError):  # every error of the hub's own is one of these
        return None


def data_files(name: str) -> list[Path]:
    """The tables and lines of a repository of data sets, those of its training split if it has one.

    Raises FileNotFoundError for a repository that cannot be loaded, or has none.
    """
    try:
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(name, repo_type="dataset", allow_patterns=[f"*{suffix}" for suffix in _DATA]))
    except (ImportError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileNotFoundError(
            f"{name}: no such file, and no data set of that name can be loaded from the hub: {reason}"
        ) from error
    files = sorted(
        path for path in folder.rglob("*") if path.suffix in _DATA and not path.name.startswith("dataset_info")
    )
    if not files:
        raise FileNotFoundError(f"{name}: this data set on the hub has no {' or '.join(_DATA)} file")
    tables = [path for path in files if path.suffix != ".json"] or files
    return [path for path in tables if path.name.startswith("train")] or tables
