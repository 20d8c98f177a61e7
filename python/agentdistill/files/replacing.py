"""Replace a file atomically: a reader sees the old content or the new, never a part."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path next to ``path``. It replaces ``path`` when the block ends without an exception.

    If the block raises, ``path`` is unchanged and the temporary file is removed.
    """
    if not path.name:
        raise IsADirectoryError(21, "this is a folder: give a file", str(path))
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        yield new
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def refuse_foreign(output: str | Path, is_ours: Callable[[Path], bool]) -> None:
    """Raise FileExistsError if the output is a file of another kind, which a wrong ``-o`` would destroy, or a device
    such as /dev/null, in whose place there would be a file from then on."""
    output = Path(output)
    if output.exists() and not output.is_file() and not output.is_dir():
        raise FileExistsError(17, "this is a device or a pipe and will not be replaced: give a file", str(output))
    if output.is_file() and output.stat().st_size and not is_ours(output):
        raise FileExistsError(17, "this is another kind of file and will not be replaced", str(output))


def has_fields(*names: str) -> Callable[[Path], bool]:
    """For ``refuse_foreign``: whether a file is a JSON object with these fields."""

    def is_ours(file: Path) -> bool:
        try:
            known = json.loads(file.read_bytes())
        except (ValueError, RecursionError):
            return False
        return isinstance(known, dict) and all(name in known for name in names)

    return is_ours


def refuse_overwriting(inputs: Iterable[str | Path], output: str | Path) -> None:
    """Raise ValueError if the output is one of the inputs."""
    if any(os.path.realpath(path) == os.path.realpath(output) for path in inputs):
        raise ValueError(f"{output} is both input and output: give another output")
