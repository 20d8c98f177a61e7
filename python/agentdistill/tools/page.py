"""How does a model read a whole page, instead of the passages that a search finds?

``open_page`` returns the passages of a title one after another, in parts. The paper's agent has no such tool.

Not here: finding the passages (rust/retrieval/page.rs).
"""

import re
from typing import TYPE_CHECKING

from agentdistill.tools.tool import Tool

if TYPE_CHECKING:
    from agentdistill._core import Bm25Index
    from agentdistill.tools.retriever import Retriever

PART_CHARS = 4_000
"""Characters of a part, as of the longest passage that a search shows."""

_DESCRIPTION = """\
Read the whole page with this title, as web_search shows it: its first part, or the given one."""

_PART = re.compile(rf".{{1,{PART_CHARS}}}(?=\s|$)|.{{1,{PART_CHARS}}}", re.DOTALL)
"""What fits, up to the end of a word if there is one."""


def open_page(retriever: "Bm25Index | Retriever") -> Tool:
    """The tool ``open_page(title, part=1)``: it returns all passages of ``retriever`` with this title, in parts.

    An HttpRetriever must be a ``serve-retrieval`` server. The paper's agent has no such tool.
    """

    def read(title: str, part: int = 1) -> str:
        if not isinstance(title, str):
            raise TypeError("call it with one string, the title of a page")
        if not isinstance(part, int) or isinstance(part, bool) or part < 1:
            raise ValueError("part must be a positive whole number")
        if not (passages := retriever.page(title)):
            others = dict.fromkeys(passage.title for passage in retriever.search(title, 3) if passage.title)
            similar = f"; there is {', '.join(map(repr, others))}" if others else ""
            raise ValueError(f"no page has the title {title!r}{similar}")
        parts = _PART.findall("\n".join(passage.text.strip() for passage in passages)) or [""]
        if part > len(parts):
            raise ValueError(f"there is no part {part}: the page has {len(parts)}")
        number = f" (part {part} of {len(parts)})" if len(parts) > 1 else ""
        return f"{passages[0].title}{number}\n{parts[part - 1].strip()}"

    read.__qualname__ = "open_page"  # in errors about its arguments, which the model sees
    return Tool("open_page", "(title: str, part: int = 1) -> str", _DESCRIPTION, read)
