"""Load a user-defined function by its name on the command line, ``FILE.py:FUNCTION`` or ``MODULE:FUNCTION``.

User-defined tools and graders are named in this way.
"""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

_FORMS = "FILE.py:FUNCTION or MODULE:FUNCTION"


class NamedFunction(NamedTuple):
    """A function and its module."""

    function: Callable[..., Any]
    module: ModuleType


def named_function(name: str) -> NamedFunction:
    """Import the module and return the function with that name. ``MODULE`` is looked up on Python's path.

    Raises ValueError if there is no such function, OSError for a missing file, and whatever the module raises.
    """
    where, _, attribute = name.rpartition(":")
    try:
        module = _module(where)
    except (ImportError, ValueError) as error:  # ValueError: an empty name
        raise ValueError(f"no function {name!r} ({error}): give {_FORMS}") from error
    function = getattr(module, attribute, None)
    if not callable(function) or getattr(module, "__file__", None) is None:
        raise ValueError(f"{where} has no function {attribute!r}: give {_FORMS}")
    return NamedFunction(function, module)


def _module(where: str) -> ModuleType:
    if not where.endswith(".py"):
        return importlib.import_module(where)
    path = Path(where)
    path.read_bytes()  # raises OSError for a missing file, instead of an error of the import system
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
