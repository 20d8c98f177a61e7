"""A small MCP server like those of others: names, arguments and results of its tools are not always those of Python."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ImageContent, TextContent, ToolAnnotations
from pydantic import Field

server = MCPServer[Any]("peer", log_level="WARNING")


@server.tool(name="get-weather")
def get_weather(
    town: Annotated[str, Field(description="Name of the town.")],
    days: int = 1,
    units: Annotated[str | None, Field(description="metric or imperial.")] = None,
) -> str:
    """The weather of a town."""
    return f"{town}: {days} days of rain ({units or 'metric'})"


@server.tool()
def route(start: str, mode: Literal["rail", "road"] = "rail", stops: list[str] | None = None) -> list[str]:
    """The way from a town."""
    return [start, *(stops or []), mode]


@server.tool()
def total(numbers: list[float], start: float = 0.5) -> float:
    """The sum of numbers."""
    return start + sum(numbers)


@server.tool()
def person(name: str) -> dict[str, Any]:
    """What is known of somebody."""
    if name == "Nobody":
        raise ToolError("there is nobody of this name")
    return {"name": name, "born": 1815, "works": ["Notes"]}


@server.tool(structured_output=False)
def picture() -> list[Any]:
    """A picture."""
    return [TextContent(text="here it is"), ImageContent(data="AAAA", mime_type="image/png")]


@server.tool()
async def sleep(seconds: float) -> None:
    """Sleep."""
    await anyio.sleep(seconds)


dying = list[str]()


@server.tool()
async def die(who: str, together: int = 1) -> None:
    """End the server, as a fault in it might, when so many wait for that."""
    dying.append(who)
    if len(dying) == together:
        os._exit(1)
    await anyio.sleep_forever()


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def look(mark: str) -> str:
    """End the server the first time, and answer the second, which finds the mark of the first."""
    if not Path(mark).exists():
        Path(mark).touch()
        os._exit(1)
    return "seen"


if __name__ == "__main__":
    if sys.argv[1:]:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run()
