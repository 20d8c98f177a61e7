"""Which function of one's own does a name on the command line stand for: ``FILE.py:FUNCTION`` or ``MODULE:FUNCTION``?

Tools and graders are named so.
"""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

_FORMS = "FILE.py:FUNCTION or MODULE:FUNCTION"


class NamedFunction(NamedTuple):
    """A function, and the module that it was found in."""

    function: Callable[..., Any]
    module: ModuleType


def named_function(name: str) -> NamedFunction:
    """The function of that name. Its module is imported: ``MODULE`` from where Python looks for modules.

    Raises ValueError where there is no such function, OSError for a file that is not there, and what the module itself
    raises.
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
    path.read_bytes()  # a file that is not there is an OSError, not one of the import system's
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
