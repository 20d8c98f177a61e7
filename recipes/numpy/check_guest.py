"""Runs inside the guest: numpy's own tests, found and run as pytest would, as far as they need it. For check.py."""

import builtins
import importlib
import importlib.abc
import importlib.util
import inspect
import io
import itertools
import sys
import types


class FromHost(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports what the host's tool `module` knows: the file of a module and its text."""

    def find_spec(self, name, path, target=None):
        found = module(name)  # noqa: F821 - a tool of the host's
        if not found:
            return None
        file = found[0]
        is_package = file.endswith("__init__.py")
        spec = importlib.util.spec_from_loader(name, self, origin=file, is_package=is_package)
        spec.has_location = True
        return spec

    def get_source(self, name):
        return module(name)[1]  # noqa: F821 - as above


def open_at_host(file, *ignored, **also_ignored):
    """Instead of open(): the text files that lie beside the tests."""
    text = data(str(file))  # noqa: F821 - a tool of the host's
    if text is None:
        raise FileNotFoundError(file)
    return io.StringIO(text)


class Lacking(types.ModuleType):
    """A module that is not in the guest; what uses it is skipped."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def lacking(*ignored, **also_ignored):
            if running:
                import pytest

                pytest.skip(f"needs {self.__name__}")
            return lacking  # as a decorator it makes a test that is skipped

        return lacking


def load(name: str) -> int:
    """Imports a module of tests; gives how many cases it has."""
    global cases
    module = importlib.import_module(name)
    cases = [case for function in functions(module) for case in expand(*function)]
    return len(cases)


def functions(module):
    """The tests of a module: name, function, class or None, marks of class and module."""
    outer = marks_of(module)
    for name, value in list(vars(module).items()):
        if name.startswith("test") and inspect.isfunction(value):
            yield name, value, None, outer
        elif name.startswith("Test") and inspect.isclass(value):
            for attribute in dir(value):
                method = getattr(value, attribute)
                if attribute.startswith("test") and callable(method):
                    yield f"{name}.{attribute}", method, value, [*outer, *marks_of(value)]


def marks_of(value):
    marks = getattr(value, "pytestmark", [])
    return marks if isinstance(marks, list) else [marks]


def expand(name, function, owner, outer):
    """One case for each combination of parameters."""
    marks = [*outer, *marks_of(function)]
    choices = []
    for mark in marks:
        if mark.name == "parametrize":
            names, values = mark.args[:2]
            names = [part.strip() for part in names.split(",")] if isinstance(names, str) else list(names)
            bare = isinstance(mark.args[0], str) and len(names) == 1
            choices.append([parameters(names, value, bare) for value in values])
    for number, combination in enumerate(itertools.product(*choices)):
        arguments, extra = {}, []
        for chosen, its_marks in combination:
            arguments.update(chosen)
            extra.extend(its_marks)
        yield f"{name}[{number}]" if choices else name, function, owner, arguments, [*marks, *extra]


def parameters(names, value, bare):
    marks = list(getattr(value, "marks", ()))
    value = value.values if hasattr(value, "marks") else (value,) if bare else value
    return dict(zip(names, value, strict=True)), marks


def run(start: int, end: int) -> list[str]:
    """Runs cases; gives for each its name, a tab, and what became of it."""
    import pytest

    global running
    running = True
    return [
        f"{name}\t" + " ".join(outcome(pytest, function, owner, dict(arguments), marks).split())
        for name, function, owner, arguments, marks in cases[start:end]
    ]


def outcome(pytest, function, owner, arguments, marks) -> str:
    may_fail = False
    for mark in marks:
        condition = mark.args[0] if mark.args else True
        if mark.name in ("skipif", "xfail") and isinstance(condition, str):
            condition = eval(condition, function.__globals__)
        if mark.name == "skip" or (mark.name == "skipif" and condition):
            return f"skipped {mark.kwargs.get('reason') or (mark.args[0] if mark.name == 'skip' and mark.args else '')}"
        may_fail |= mark.name == "xfail" and bool(condition)
    instance = owner() if owner else None
    try:
        if hasattr(owner, "setup_class"):
            owner.setup_class()
        if hasattr(instance, "setup_method"):
            instance.setup_method()
        prepare(pytest, function, owner, instance, arguments)
        (function.__get__(instance) if instance is not None else function)(**arguments)
    except pytest.skip.Exception as skip:
        return f"skipped {skip}"
    except pytest.xfail.Exception:  # a test may say so itself
        return "xfailed"
    except Exception as error:
        if may_fail:
            return "xfailed"
        lines = str(error).strip().splitlines()
        return f"failed {type(error).__name__}: {' | '.join(lines[:6])[:300]}"
    finally:
        if hasattr(instance, "teardown_method"):
            instance.teardown_method()
    return "passed"


def prepare(pytest, function, owner, instance, arguments):
    """Adds what fixtures give."""
    for name in list(inspect.signature(function).parameters):
        if name == "self" or name in arguments:
            continue
        fixture = getattr(owner, name, None) or function.__globals__.get(name)
        if name == "monkeypatch":
            arguments[name] = pytest.MonkeyPatch()
        elif fixture is None or not hasattr(fixture, "_get_wrapped_function"):
            if inspect.signature(function).parameters[name].default is inspect.Parameter.empty:
                pytest.skip(f"needs the fixture {name}, and there are no files" if "tmp" in name else f"needs {name}")
        else:
            arguments[name] = made(pytest, fixture, owner, instance)


def made(pytest, fixture, owner, instance):
    """What a fixture gives; of several, the first."""
    function = fixture._get_wrapped_function()
    arguments = {}
    for name in inspect.signature(function).parameters:
        if name == "request":
            arguments[name] = types.SimpleNamespace(param=(fixture._fixture_function_marker.params or [None])[0])
    prepare(pytest, function, owner, instance, arguments)
    value = (function.__get__(instance) if hasattr(owner, function.__name__) else function)(**arguments)
    return next(value) if inspect.isgenerator(value) else value


cases = []
running = False
sys.meta_path.append(FromHost())
builtins.open = open_at_host
for lacking in LACKING:  # noqa: F821 (check.py puts it before this text)
    sys.modules[lacking] = Lacking(lacking)
    parent, _, child = lacking.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, sys.modules[lacking])
