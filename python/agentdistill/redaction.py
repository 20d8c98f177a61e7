"""Remove passwords and keys from everything that is shown or recorded.

Code that receives a secret (in a URL, a command line, the environment) registers it here, and refers to its server by
the public part of the address. Answers of tools, errors of episodes, the log and terminal output go through
:func:`redacted`, because libraries and servers repeat what they were given.

Not here: secrets that were never registered.
"""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

MIN_LENGTH = 5
"""Minimum length of a secret, in characters. A shorter one would occur in ordinary text."""

_hidden: set[str] = set()
_SECRET_NAME = re.compile(
    r"(^|[^a-z])(pw|pwd|pat|jwt)([^a-z]|$)|key|token|secret|passw|passphrase|auth|credential|bearer|cookie|header",
    re.IGNORECASE,
)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_KEY = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w+=-]{16,}")
_SCHEME = re.compile(r"\b(?:bearer|basic|token)\s+(\S+)", re.IGNORECASE)


def hide(*secrets: str) -> None:
    """Register secrets, also in the form in which a URL would contain them. ``redacted`` removes them from now on."""
    for secret in secrets:
        forms = {secret, unquote(secret), quote(secret, safe=""), quote(unquote(secret), safe="")}
        _hidden.update(form for form in forms if len(form) >= MIN_LENGTH)


def redacted(text: str) -> str:
    """``text`` with ``***`` in place of registered secrets."""
    for secret in sorted(_hidden, key=len, reverse=True):  # one may contain another
        text = text.replace(secret, "***")
    return text


def redacted_value(value: Any) -> Any:
    """The same for all strings in a JSON value."""
    match value:
        case str():
            return redacted(value)
        case list() | tuple():
            return [redacted_value(item) for item in value]
        case dict():
            return {redacted_value(name): redacted_value(item) for name, item in value.items()}
    return value


def public_url(url: str) -> str:
    """A URL without user, password, query, and parts of its path that look like keys. All these are registered."""
    _hide_in_url(url)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "an invalid URL"
    host = f"[{host}]" if ":" in host else host
    path = "/".join("***" if _KEY.fullmatch(part) else part for part in parts.path.split("/"))
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "") + path


def public_command(words: Sequence[str]) -> str:
    """The name of a command's program. Arguments that are probably secret are registered."""
    hide_in_command(words)
    return redacted(words[0].rpartition("/")[2])


def hide_in_command(words: Sequence[str]) -> None:
    """Register arguments that are secret by their flag or name (``--token X``, ``API_KEY=X``), are secret parts of a
    URL, or look like a key."""
    for before, word in zip(("", *words), words, strict=False):
        name, equals, value = word.partition("=")
        if equals and _SECRET_NAME.search(name):
            hide(value)
        named = before.startswith("-") and "=" not in before and _SECRET_NAME.search(before) and word[:1] != "-"
        if named or _KEY.fullmatch(word):
            hide(word)
        hide(*_SCHEME.findall(word))
        for url in _URL.findall(word):
            _hide_in_url(url)


def hide_in_environment(environment: Mapping[str, str]) -> None:
    """Register the values of variables with names such as API_KEY or PASSWORD."""
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and name not in ("PWD", "OLDPWD") and len(value) >= 8 and value[0] != "/":
            hide(value)


def _hide_in_url(url: str) -> None:
    user_info = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
    user, colon, password = user_info.partition(":")
    if user_info:
        hide(password if colon else user, user_info)
        hide(b64encode(unquote(user_info).encode("utf-8", "replace")).decode())  # as it is sent
    query = url.partition("?")[2].partition("#")[0]
    hide(*(value for _, value in parse_qsl(query)))
    hide(*(part for part in url.partition("://")[2].split("?")[0].split("/")[1:] if _KEY.fullmatch(part)))
