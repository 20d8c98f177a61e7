"""mkdocs hooks: add the project's own files as pages, rewrite their links, and generate the page of commands.

Pages load nothing from other hosts: a page that would is an error.
"""

import io
import os
import posixpath
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path
from textwrap import fill
from typing import get_args

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from agentdistill import cli

ROOT = Path(__file__).parents[1]

PAGES = {
    "README.md": "index.md",
    "recipes/paper/README.md": "paper.md",
    "recipes/laptop/README.md": "laptop.md",
    "SECURITY.md": "safety.md",
    "recipes/numpy/README.md": "numpy.md",
    "ARCHITECTURE.md": "design.md",
    "BENCHMARKS.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""File -> page."""

WIDTH = 80
"""Characters per line of a code block."""

FOREIGN = re.compile(r"<(?:link|script|img|iframe)\b[^>]*\s(?:href|src)=\"?(?:https?:)?//[^>]*>")
LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the project's own files and the page of commands."""
    for file, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / file)))
    os.environ["COLUMNS"] = str(WIDTH)
    parts = ["# Commands", block("--help")]
    for group, members in cli.GROUPS.items():
        parts.append(f"## {group}")
        for name, command in members.items():
            subcommands = get_args(command.__annotations__.get("command"))
            names = [f"{name} {get_args(subcommand)[1].name}" for subcommand in subcommands] or [name]
            parts += [f"### {name}\n\n{block(name, '--help')}" for name in names]
    files.append(File.generated(config, "commands.md", content="\n\n".join(parts) + "\n"))
    return files


def block(*arguments: str) -> str:
    """What a command line prints, as a block of text."""
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        cli.main([part for argument in arguments for part in argument.split()])
    lines = (fill(line, WIDTH) if line[:1].strip() else line for line in printed.getvalue().splitlines())
    return "\n".join(["```text", *lines, "```"])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links and images that point to files of the project into links within the site. If a file is not part of
    the site, only the text remains."""
    sources = {page: file for file, page in PAGES.items()}
    folder = posixpath.dirname(sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def in_the_site(link: re.Match[str]) -> str:
        image, text, target, anchor = link.groups("")
        if not target or "://" in target:
            return link[0]
        file = posixpath.normpath(posixpath.join(folder, target))
        there = PAGES.get(file, file.removeprefix("docs/"))
        if files.get_file_from_path(there):
            there = posixpath.relpath(there, posixpath.dirname(page.file.src_uri) or ".")
            return f"{image}[{text}]({there}{anchor})"
        return text if (ROOT / file).exists() else link[0]  # mkdocs reports a broken link

    return LINK.sub(in_the_site, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Raise PluginError if a reader's browser would load something from another host."""
    if found := FOREIGN.search(output):
        raise PluginError(f"{page.file.src_uri} loads from another host: {found[0]}")
    return output
