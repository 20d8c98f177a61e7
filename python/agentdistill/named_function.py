"""Load a user-defined function by its name on the command line, ``FILE.py:FUNCTION`` or ``MODULE:FUNCTION``.

User-defined tools and graders are named in this way.
"""

import importlib
import importlib.util
import traceback
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

    Raises ValueError if there is no such function or its module raises an exception, and OSError for a missing file.
    """
    where, _, attribute = name.rpartition(":")
    try:
        module = _module(where)
    except (ImportError, ValueError) as error:  # ValueError: an empty name
        raise ValueError(f"no function {name!r} ({error}): give {_FORMS}") from error
    except OSError:
        raise
    except (Exception, SystemExit) as error:  # of the user's code; a script may end with sys.exit
        raise ValueError(f"no function {name!r}: importing {where} raises {what_failed(error)}") from error
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


def what_failed(error: BaseException) -> str:
    """An exception and the line that raised it."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error}"  # which names the line
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error}, at {last.filename}:{last.lineno}"
