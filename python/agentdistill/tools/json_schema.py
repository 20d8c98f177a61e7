"""Which Python signature do the arguments have that a JSON schema describes?

Servers write schemas in many ways: generated from models (``$ref``), for other clients (``nullable``), and with null
for what is absent. What Python has no type for is ``Any``. Arguments are not checked here: the server does that.

Not here: the schema of a Python function (tool.py).
"""

import inspect
import keyword
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

MAX_DEPTH = 8
"""References and nested types that are followed; a schema may contain itself."""


class Annotation(str):
    """The name of a type, shown unquoted in a signature."""

    __repr__ = str.__str__


ANY = Annotation("Any")


def arguments(schema: dict[str, Any]) -> list[tuple[str, inspect.Parameter, str]]:
    """The arguments of ``schema``: their names in it, as parameters, and their descriptions, which may be empty.

    Required ones are first, as Python wants.
    """
    properties, required = _fields(schema, schema)
    names = identifiers(properties)
    found = []
    for (known, described), name in zip(properties.items(), names, strict=True):
        field = _resolved(described, schema)
        is_required = known in required or field.get("required") is True
        parameter = inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if is_required else field.get("default"),
            annotation=annotation(field, schema),
        )
        description = field.get("description")
        found.append((known, parameter, description if isinstance(description, str) else ""))
    return sorted(found, key=lambda argument: argument[1].default is not inspect.Parameter.empty)


def _fields(schema: Any, root: dict[str, Any], depth: int = 0) -> tuple[dict[str, Any], set[str]]:
    """The properties of an object, and the names of those that are required. Those of its alternatives (``anyOf``,
    ``oneOf``) are properties too, and required if all of them want them."""
    whole = _resolved(schema, root)
    known, wanted = whole.get("properties"), whole.get("required")
    # Null, or the empty list that PHP makes of an empty object, has no properties.
    properties = dict(known) if isinstance(known, dict) else {}
    required = {name for name in wanted if isinstance(name, str)} if isinstance(wanted, list) else set[str]()
    for name, combine in (("allOf", set.union), ("anyOf", set.intersection), ("oneOf", set.intersection)):
        parts = whole.get(name)
        if isinstance(parts, list) and parts and depth < MAX_DEPTH:
            found = [_fields(part, root, depth + 1) for part in parts]
            for more, _ in found:
                properties |= {name: field for name, field in more.items() if name not in properties}
            required |= combine(*(names for _, names in found))
    return properties, required


def identifiers(names: Iterable[str]) -> list[str]:
    """The names as different Python identifiers."""
    found: list[str] = []
    for name in names:
        safe = re.sub(r"\W", "_", unicodedata.normalize("NFKC", name))  # as Python itself reads identifiers
        safe = f"_{safe}" if not safe.isidentifier() else f"{safe}_" if keyword.iskeyword(safe) else safe
        unique, number = safe, 2
        while unique in found:
            unique, number = f"{safe}_{number}", number + 1
        found.append(unique)
    return found


_TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "object": "dict",
    "array": "list",
    "null": "None",
}


def annotation(schema: Any, root: dict[str, Any], depth: int = 0) -> Annotation:
    """The Python type for ``schema``, which is a part of ``root``, where that helps a model."""
    if depth == MAX_DEPTH:
        return ANY
    field = _resolved(schema, root)
    match field:
        case {"enum": [_, *_] as values}:
            kinds = [f"Literal[{', '.join(map(repr, values))}]"]
        case {"const": value}:
            kinds = [f"Literal[{value!r}]"]
        case {"anyOf": [_, *_] as alternatives} | {"oneOf": [_, *_] as alternatives}:
            kinds = [annotation(alternative, root, depth + 1) for alternative in alternatives]
        case {"type": "array", "items": dict(items)}:
            inner = annotation(items, root, depth + 1)
            kinds = ["list" if inner == ANY else f"list[{inner}]"]
        case {"type": [_, *_] as names}:
            kinds = [annotation(field | {"type": name}, root, depth + 1) for name in names]
        case {"type": str(name)}:
            kinds = [_TYPES.get(name, ANY)]
        case _:
            return ANY
    if field.get("nullable") is True:  # OpenAPI 3.0
        kinds.append("None")
    return ANY if ANY in kinds else Annotation(" | ".join(dict.fromkeys(kinds)))


def _resolved(schema: Any, root: dict[str, Any]) -> dict[str, Any]:
    """``schema`` with the fields of what it refers to in ``root``; its own are stronger. Whatever is not a JSON object
    says nothing, as ``true`` does."""
    found: dict[str, Any] = {}
    for _ in range(MAX_DEPTH):
        if not isinstance(schema, dict):
            break
        found = schema | found
        match schema:
            case {"$ref": str(place)} if place.startswith("#/"):
                schema = _at(place, root)
            case {"allOf": [only]}:
                schema = only
            case _:
                break
    return found


def _at(place: str, root: Any) -> Any:
    """What a JSON pointer (RFC 6901) points at, None if there is nothing."""
    for part in place.removeprefix("#/").split("/"):
        root = root.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(root, dict) else None
    return root
