"""The client of retrieval servers, against a server that fails as scripted, and as a tool of cells."""

import json
import pickle
import re
import time
from typing import Any

import pytest

from agentdistill import Bm25Index, HttpRetriever, Passage, RetrievalError, RetrievalServer, Sandbox
from agentdistill.cli.arguments import Tools
from agentdistill.tools.tool import describe_tools, sandbox_tools, web_search
from scripted_server import FLEETING, Answer, Handler, Server, cut, raw, status, too_slow

pytestmark = pytest.mark.usefixtures("quick_retries")

PASSAGE = Passage("7", "Paris", "Paris is a city.\nIt is large.", 2.5)
CONTENTS = {"id": "7", "contents": '"Paris"\nParis is a city.\nIt is large.'}


def found(*results: Any) -> Answer:
    return raw(json.dumps({"result": results}))


GOOD = found([{"document": CONTENTS, "score": 2.5}])


def retriever_of(server: Server, path: str = "", **options: Any) -> HttpRetriever:
    return HttpRetriever(f"http://127.0.0.1:{server.server_port}{path}", **options)


def test_a_copy_in_another_process_asks_the_same_server(server: Server) -> None:
    server.script = [GOOD]
    copy = pickle.loads(pickle.dumps(retriever_of(server, retries=1, timeout=3).search_text))
    assert copy("x") == "[1] Paris\nParis is a city.\nIt is large."


@pytest.mark.parametrize("path", ["", "/", "/retrieve"])
def test_a_plain_request(server: Server, path: str) -> None:
    server.script = [GOOD]
    assert retriever_of(server, path).search("where? \ud800", 2) == [PASSAGE]
    assert server.requests == [{"queries": ["where? \ufffd"], "topk": 2, "return_scores": True, "key": None}]


DOCUMENTS: list[tuple[dict[str, Any], Passage]] = [
    ({"document": {"id": 7, "title": "Paris", "text": "Paris is a city.\nIt is large."}, "score": 2.5}, PASSAGE),
    ({"document": {"title": "Paris", "text": "x", "contents": "Paris\nx"}, "score": 1}, Passage("", "Paris", "x", 1)),
    (CONTENTS, Passage("7", "Paris", PASSAGE.text)),
    ({"document": {"id": "1", "contents": "no title"}, "score": None}, Passage("1", "no title", "")),
    ({"id": None, "_id": 7, "title": 1984, "text": "x"}, Passage("7", "1984", "x")),
    ({"docid": "d", "title": None, "text": "x"}, Passage("d", "", "x")),
]


@pytest.mark.parametrize("document, passage", DOCUMENTS)
def test_documents_of_other_servers(server: Server, document: dict[str, Any], passage: Passage) -> None:
    server.script = [found([document])]
    assert retriever_of(server).search("x") == [passage]


def test_a_server_that_returns_more_than_asked(server: Server) -> None:
    server.script = [found([CONTENTS] * 5)]
    assert len(retriever_of(server).search("x", 2)) == 2


def test_an_error_in_a_good_response_is_said(server: Server) -> None:
    server.script = [raw('{"error": "no index"}')]
    with pytest.raises(RetrievalError, match=r'it has no result: \{"error": "no index"\}'):
        retriever_of(server, retries=0).search("x")


STRANGE = {
    "no results": found(),
    "results of another query": found([], []),
    "results of a wrong type": raw('{"result": 5}'),
    "documents of a wrong type": found([5]),
    "a document without text": found([{"document": {"id": "1"}, "score": 1}]),
    "text of a wrong type": found([{"document": {"id": "1", "contents": 5}}]),
    "an error": raw('{"error": "no index"}'),
    "nothing but brackets": raw("[" * 100_000),
    "not what it says": lambda handler, request: handler.send(200, "junk", headers={"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("trouble", [*FLEETING.values(), *STRANGE.values()], ids=[*FLEETING, *STRANGE])
def test_what_passes_is_asked_again(server: Server, trouble: Answer) -> None:
    server.script = [trouble, trouble, GOOD]
    retriever = retriever_of(server, timeout=0.5 if trouble is too_slow else 10)
    assert retriever.search("x") == [PASSAGE]
    assert len(server.requests) == 3


LASTING = {
    "no such page": (status(404, "what?"), r"status 404: .*what\?.*\. Does its URL end in /retrieve\?"),
    "not allowed": (status(403, "not yours"), "rejects the request with status 403: .*not yours"),
    "bad request": (status(422, "hm"), "status 422: .*hm"),
    "moved": (status(307, "there"), "status 307"),
    "moved elsewhere": (
        status(307, "there", {"Location": "/retrieve/"}),
        "status 307.* Give the URL that it redirects to, /retrieve/",
    ),
    "told to wait an hour": (status(503, "busy", {"Retry-After": "3600"}), "after 1 tries: .*busy.* 3600 s"),
}


@pytest.mark.parametrize("answer, message", LASTING.values(), ids=LASTING.keys())
def test_what_does_not_pass_is_an_error_at_once(server: Server, answer: Answer, message: str) -> None:
    server.script = [answer]
    with pytest.raises(RetrievalError, match=f"the retriever at http://127.0.0.1:.*/retrieve .*{message}"):
        retriever_of(server).search("x")
    assert len(server.requests) == 1


def test_retries_are_bounded(server: Server) -> None:
    server.script = [cut]
    with pytest.raises(RetrievalError, match="does not answer after 4 tries"):
        retriever_of(server, retries=3).search("x")
    assert len(server.requests) == 4


def test_an_answer_that_does_not_end_is_given_up(server: Server) -> None:
    def trickle(handler: Handler, request: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            time.sleep(0.05)
            handler.wfile.write(b" ")
            handler.wfile.flush()

    server.script = [trickle]
    start = time.monotonic()
    with pytest.raises(RetrievalError, match="too long or too slow"):
        retriever_of(server, retries=0, timeout=0.3).search("x")
    assert time.monotonic() - start < 3


def test_a_server_that_never_was_is_given_up_soon() -> None:
    with pytest.raises(RetrievalError, match=r"at http://127\.0\.0\.1:9/retrieve does not answer after 3 tries"):
        HttpRetriever("http://127.0.0.1:9").search("x")  # the discard port, on which nothing listens


@pytest.mark.parametrize("url", ["", "wiki", "127.0.0.1:8000", "ftp://x", "http://", "http://h:port", "http://h/\x1b"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL of (a|the) retriever"):
        HttpRetriever(url)


def test_cells_search_over_http_as_they_do_natively(tmp_path: Any) -> None:
    passages = [(str(i), f"Town {i}", f"Town {i} is {'very ' * (i % 7)}large.") for i in range(40)]
    index = Bm25Index.build(passages, tmp_path / "index")
    cells = [f"print(web_search('town {i}')); print(web_search(query='large town', k=2))" for i in range(20)]
    with RetrievalServer(index, port=0) as server:
        observed = []
        for retriever in (index, HttpRetriever(server.url)):
            sandbox = Sandbox(sandbox_tools([web_search(retriever)]))
            results = sandbox.run_many([(sandbox.initial, cell) for cell in cells])
            observed.append([observation.stdout for observation, _ in results])
    assert observed[0] == observed[1]
    assert all(re.match(r"\[1\] Town \d+\n.*\n\[2\] .*\n.*\n\[3\] ", said) for said in observed[0])


@pytest.mark.parametrize("compat", [None, "reference"])
def test_a_search_returns_as_many_passages_as_it_is_told_in_the_form_it_is_told(tmp_path: Any, compat: Any) -> None:
    index = Bm25Index.build([(str(i), f"Town {i}", f"Town {i} is large.") for i in range(9)], tmp_path / "index")
    best = index.search("large town", 5)
    shown = "\n".join(f"[{n}] {passage.title}\n{passage.text}" for n, passage in enumerate(best, 1))
    if compat:  # as the paper's own tool writes it
        form = '\n\n===== Document {}, similarity: {:.2f} =====\n"{}"\n{}'
        documents = (form.format(n, passage.score, passage.title, passage.text) for n, passage in enumerate(best))
        shown = "".join(["\nRetrieved documents:", *documents])
    with RetrievalServer(index, port=0) as server:
        for retriever in (index, HttpRetriever(server.url)):
            sandbox = Sandbox(sandbox_tools([web_search(retriever, 5)], compat=compat))
            observation, _ = sandbox.run(sandbox.initial, "print(web_search('large town'), end='')")
            assert observation.stdout == shown
            assert web_search(retriever, 5).function.text("large town", compat=compat) == shown
    with pytest.raises(ValueError, match="at least 1"):
        web_search(index, 0)


def test_a_server_that_is_not_ours_is_taken_to_find_by_meaning(server: Server, tmp_path: Any) -> None:
    server.script = [GOOD]  # for POST; it has no GET /health
    theirs = f"http://127.0.0.1:{server.server_port}/retrieve"
    assert not HttpRetriever(theirs).is_lexical()
    with Tools(retriever=theirs).open() as (tool,):
        assert "by meaning" in tool.description and "by meaning" in describe_tools([tool])
    index = Bm25Index.build([("1", "Town", "large")], tmp_path / "index")
    with RetrievalServer(index, port=0) as ours, Tools(retriever=ours.url, k=4).open() as (tool,):
        assert "key words" in tool.description and tool.function.k == 4
    with Tools(index=tmp_path / "index", k1=0.5, b=0.25).open() as (tool,):
        known = tool.function.retriever.info()
        assert (known["k1"], known["b"]) == (0.5, 0.25)


def test_a_cell_sees_that_search_is_down(server: Server) -> None:
    server.script = [status(404)]
    sandbox = Sandbox(sandbox_tools([web_search(retriever_of(server))]))
    observation, _ = sandbox.run(sandbox.initial, "web_search('x')")
    assert observation.kind == "tool_error" and "rejects the request" in (observation.error or "")


K = {"k=1": 1, "k=100": 100, "k=101": 100, "k=10**30": 100, "k=None": 3, "": 3}


@pytest.mark.parametrize("k", K)
def test_a_cell_gets_as_many_passages_as_of_an_index(k: str, server: Server) -> None:
    server.script = [GOOD]
    sandbox = Sandbox(sandbox_tools([web_search(retriever_of(server))]))
    observation, _ = sandbox.run(sandbox.initial, f"web_search('x', {k})")
    assert (observation.kind, server.requests[0]["topk"]) == ("value", K[k])


@pytest.mark.parametrize(
    "wrong", ["'x', 0", "'x', -1", "'x', True", "'x', 1.5", "'x', '3'", "5", "['x']", "None", "self='x'"]
)
def test_what_a_cell_may_not_ask_does_not_reach_the_server(wrong: str, server: Server) -> None:
    server.script = [GOOD]
    sandbox = Sandbox(sandbox_tools([web_search(retriever_of(server))]))
    observation, _ = sandbox.run(sandbox.initial, f"web_search({wrong})")
    assert (observation.kind, server.requests) == ("tool_error", [])
