"""Reading whole pages: what a cell gets of an index and of a server, and when the tool is offered."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentdistill import Bm25Index, HttpRetriever, Limits, RetrievalError, RetrievalServer, Sandbox, open_page
from agentdistill.cli.arguments import Tools
from agentdistill.tools.page import PART_CHARS
from agentdistill.tools.tool import describe_tools, sandbox_tools
from scripted_server import Server, raw, status

WORDS = [f"word{n}" for n in range(3000)]
PASSAGES = [
    *((str(n), "Corran", " ".join(WORDS[n * 100 : n * 100 + 100])) for n in range(30)),
    ("a", "Strand", "A beach.\n"),
    ("b", "Strand", "It is long."),
    ("c", "Blank", ""),
    ("d", "Block", "x" * 9_000),
    ("e", 'The "Great" Holm', "An island."),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Bm25Index:
    return Bm25Index.build(PASSAGES, tmp_path_factory.mktemp("pages") / "index")


@pytest.fixture(scope="module", params=["index", "server"])
def sandbox(request: pytest.FixtureRequest, index: Bm25Index) -> Iterator[Sandbox]:
    with RetrievalServer(index, port=0) as server:
        retriever = index if request.param == "index" else HttpRetriever(server.url)
        yield Sandbox(sandbox_tools([open_page(retriever)]), Limits(stdout_chars=100_000))


READ = {
    "open_page('Strand')": "Strand\nA beach.\nIt is long.",
    "open_page(title=' strand ', part=1)": "Strand\nA beach.\nIt is long.",
    "open_page('Blank')": "Blank\n",
    "open_page('Block', 3)": f"Block (part 3 of 3)\n{'x' * 1_000}",
    """open_page('The "Great" Holm')""": 'The "Great" Holm\nAn island.',
}


@pytest.mark.parametrize("call", READ)
def test_a_page_is_read(call: str, sandbox: Sandbox) -> None:
    observation, _ = sandbox.run(sandbox.initial, f"print({call}, end='')")
    assert observation.stdout == READ[call]


def test_the_parts_of_a_page_are_the_page(sandbox: Sandbox) -> None:
    code = "for part in range(1, 99): print(open_page('Corran', part), end='|')"
    observation, _ = sandbox.run(sandbox.initial, f"try:\n    {code}\nexcept ToolError as error: print(error)")
    *parts, error = observation.stdout.split("|")
    assert all(part.startswith(f"Corran (part {n} of {len(parts)})\n") for n, part in enumerate(parts, 1))
    texts = [part.partition("\n")[2] for part in parts]
    assert " ".join(texts).split() == WORDS
    assert max(map(len, texts)) <= PART_CHARS
    assert error == f"ValueError: there is no part {len(parts) + 1}: the page has {len(parts)}\n"


WRONG = {
    "open_page('Beach')": "ValueError: no page has the title 'Beach'; there is 'Strand'",
    "open_page('unheard')": "ValueError: no page has the title 'unheard'$",
    "open_page('')": "ValueError: no page has the title ''$",
    "open_page('Strand', 2)": "ValueError: there is no part 2: the page has 1",
    "open_page(['Strand'])": "TypeError: call it with one string, the title of a page",
    "open_page('Strand', 0)": "ValueError: part must be a positive whole number",
    "open_page('Strand', True)": "ValueError: part must be a positive whole number",
    "open_page('Strand', '2')": "ValueError: part must be a positive whole number",
    "open_page()": r"TypeError: open_page\(\) missing 1 required positional argument: 'title'",
    "open_page('Strand', page=2)": r"TypeError: open_page\(\) got an unexpected keyword argument 'page'",
}


@pytest.mark.parametrize("call", WRONG)
def test_a_wrong_call_is_explained_to_the_model(call: str, sandbox: Sandbox) -> None:
    observation, _ = sandbox.run(sandbox.initial, f"try:\n    {call}\nexcept ToolError as error: print(error)")
    assert re.match(WRONG[call], observation.stdout), observation.stdout


def test_the_tool_is_off_unless_it_is_wanted(index: Bm25Index) -> None:
    path = Path(index.info()["path"])
    with Tools(index=path).open() as tools:
        assert [tool.name for tool in tools] == ["web_search"]
    with RetrievalServer(index, port=0) as server:
        for options in (Tools(index=path, open_page=True), Tools(retriever=server.url, open_page=True)):
            with options.open() as tools:
                assert [tool.name for tool in tools] == ["web_search", "open_page"]
                assert "def open_page(title: str, part: int = 1) -> str:" in describe_tools(tools)
    with pytest.raises(ValueError, match="--open-page needs something to read"), Tools(open_page=True).open():
        pass


def test_a_server_without_pages_is_noticed_at_once(server: Server) -> None:
    server.script = [raw('{"result": [[]]}'), status(404)]
    options = Tools(retriever=f"http://127.0.0.1:{server.server_port}", open_page=True)
    with pytest.raises(RetrievalError, match=r"status 404: .* Only serve-retrieval returns pages"), options.open():
        pass
