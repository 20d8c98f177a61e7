"""Search with real questions, and the index from Python. tests/rust/retrieval.rs compares scores with an oracle."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentdistill._core import Bm25Index, Passage, RetrievalError, Sandbox, for_reading
from gold_questions import gold_questions, recall

RECALL = {
    "2wiki_hipporag": (56.2, 65.3, 68.6),
    "hotpot_hipporag_train100": (60.0, 78.0, 89.0),
    "hotpot_autoact300": (60.0, 78.2, 90.8),
    "musique_hipporag_train100": (39.2, 49.3, 55.9),
}
"""Recall at 2, 5 and 10, in percent, of bm25s with Porter2 stems and stop words (shared/data/README.md)."""

PASSAGES = [("a", "Corran", "A headland."), ("b", "Strand", "An engineer of lights."), ("c", "", "Corran, Corran")]


def test_titles_may_count_oftener(tmp_path: Path) -> None:
    passages = [("1", "Corran", "a long text of words"), ("2", "Strand", "Corran, Corran, a long text")]
    once, often = [Bm25Index.build(passages, tmp_path / str(weight), title_weight=weight) for weight in (1, 4)]
    assert [[passage.id for passage in index.search("corran")] for index in (once, often)] == [["2", "1"], ["1", "2"]]
    assert often.info()["title_weight"] == 4


@pytest.mark.parametrize("name", RECALL)
def test_recall_is_that_of_the_peer(name: str, shared_data: Path, tmp_path: Path) -> None:
    asked = gold_questions(shared_data / "retrieval" / name)
    found = Bm25Index.build(asked.corpus, tmp_path / "index").search_batch(asked.texts, k=10)
    for k, expected in zip((2, 5, 10), RECALL[name], strict=True):
        assert recall(found, asked.gold, k) >= expected - 0.5, f"recall at {k}"


def test_an_index_is_built_opened_and_searched(tmp_path: Path) -> None:
    path = tmp_path / "index"
    seen: list[tuple[int, float | None]] = []
    forms = [Passage(*PASSAGES[0]), PASSAGES[1], dict(zip(("_id", "title", "text"), PASSAGES[2], strict=True))]
    built = Bm25Index.build(iter(forms), path, progress=lambda *progress: seen.append(progress))
    index = Bm25Index.open(str(path))
    assert (len(built), len(index), seen[-1]) == (3, 3, (3, None))
    [first, second] = index.search("corran", k=5)
    assert (first.id, first.title, first.text) == ("c", "", "Corran, Corran")
    assert second.id == "a" and first.score > second.score > 0
    assert index.search_batch(["corran", "\ud800 AND (", "engineers"], k=1) == [[first], [], index.search("engineer")]
    info = index.info()
    assert info.pop("bytes") == sum(file.stat().st_size for file in path.iterdir())
    assert "Snowball stems" in info.pop("analyzer")
    assert info == {
        "documents": 3,
        "segments": 1,
        "deleted": 0,
        "version": 5,
        "path": str(path),
        "skipped": 0,
        "language": "english",
        "title_weight": 1,
        "k1": 1.2,
        "b": 0.75,
    }


def test_an_index_remembers_its_language(tmp_path: Path) -> None:
    Bm25Index.build([("1", "東京", "東京都庁は新宿にある。")], tmp_path / "index", language="cjk")
    index = Bm25Index.open(tmp_path / "index")
    assert index.info()["language"] == "cjk"
    assert [passage.id for passage in index.search("新宿")] == ["1"] and not index.search("宿東")
    with pytest.raises(ValueError, match='"klingon", and must be one of english, arabic'):
        Bm25Index.build(PASSAGES, tmp_path / "other", language="klingon")
    with pytest.raises(ValueError, match="weight must be from 1 to 100"):
        Bm25Index.build(PASSAGES, tmp_path / "other", title_weight=0)
    with pytest.raises(ValueError, match="at least 64 MB"):
        Bm25Index.build(PASSAGES, tmp_path / "other", memory_mb=63)


def test_bad_input_says_what_and_where(tmp_path: Path) -> None:
    path = tmp_path / "index"
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "a", "text": "x"}\n{"id": "b"}\n{"id": "c", "text": "y"}\n')
    with pytest.raises(RetrievalError, match=r"corpus\.jsonl:2: no field `text` or `contents`"):
        Bm25Index.build(corpus, path)
    with pytest.raises(RetrievalError, match=r"passage 2: .* is neither"):
        Bm25Index.build([PASSAGES[0], ("b", 3, "text")], path)  # type: ignore[list-item]
    assert os.listdir(tmp_path) == ["corpus.jsonl"], "a build that failed leaves nothing"
    assert Bm25Index.build(corpus, path, skip_bad=True).info()["skipped"] == 1
    with pytest.raises(RetrievalError, match="already"):
        Bm25Index.build(PASSAGES, path)
    index = Bm25Index.build([*PASSAGES, "no passage"], path, overwrite=True, skip_bad=True)  # type: ignore[list-item]
    assert (index.info()["documents"], index.info()["skipped"]) == (3, 1)
    for k in (0, -1):
        with pytest.raises(ValueError, match="k must be at least 1"):
            index.search("corran", k=k)
    with pytest.raises(FileNotFoundError):
        Bm25Index.build(tmp_path / "absent.jsonl", tmp_path / "other")
    with pytest.raises(RetrievalError, match="there is no index here"):
        Bm25Index.open(tmp_path / "other")


def test_what_the_caller_raises_ends_the_build(tmp_path: Path) -> None:
    def stop(passages: int, share: float | None) -> None:
        raise KeyboardInterrupt

    def broken() -> Iterator[tuple[str, str, str]]:
        yield PASSAGES[0]
        raise OSError("the source broke")

    with pytest.raises(KeyboardInterrupt):
        Bm25Index.build(PASSAGES, tmp_path / "index", progress=stop)
    with pytest.raises(OSError, match="the source broke"):
        Bm25Index.build(broken(), tmp_path / "index")
    assert os.listdir(tmp_path) == []


BUILD = """
import sys, itertools
from agentdistill._core import Bm25Index
passages = ((str(i), f"title {i}", "some text") for i in itertools.count())
Bm25Index.build(passages, sys.argv[1], progress=lambda *n: print(n, flush=True))
"""


def test_a_killed_build_leaves_no_index(tmp_path: Path) -> None:
    path = tmp_path / "index"
    builder = subprocess.Popen([sys.executable, "-c", BUILD, str(path)], stdout=subprocess.PIPE)
    assert builder.stdout is not None and builder.stdout.readline()
    with pytest.raises(RetrievalError, match="another process is building"):
        Bm25Index.build(PASSAGES, path)
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert not path.exists()
    assert len(Bm25Index.build(PASSAGES, path)) == 3
    assert os.listdir(tmp_path) == ["index"], "what the killed build left is cleared away"


REPLACE = """
import itertools, os, sys
from agentdistill._core import Bm25Index
for i in itertools.count():
    Bm25Index.build([(f"{os.getpid()}-{i}", "", "some text")], sys.argv[1], overwrite=True)
"""


def test_whenever_a_build_is_killed_there_is_an_index(tmp_path: Path) -> None:
    Bm25Index.build([("first", "", "some text")], tmp_path / "index")

    def found() -> str:
        [passage] = Bm25Index.open(tmp_path / "index").search("some")
        return passage.id

    for i in range(10):
        builder = subprocess.Popen([sys.executable, "-c", REPLACE, tmp_path / "index"])
        while not found().startswith(f"{builder.pid}-"):
            pass
        time.sleep(0.005 * i)
        builder.kill()
        builder.wait()
        assert found().startswith(f"{builder.pid}-")


def test_ctrl_c_ends_a_build(tmp_path: Path) -> None:
    builder = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(tmp_path / "index")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert builder.stdout is not None and builder.stdout.readline()
    builder.send_signal(signal.SIGINT)
    _, stderr = builder.communicate(timeout=30)
    assert b"KeyboardInterrupt" in stderr
    deadline = time.monotonic() + 10
    while os.listdir(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.listdir(tmp_path) == []


def test_the_sandbox_searches_natively(tmp_path: Path) -> None:
    index = Bm25Index.build(PASSAGES, tmp_path / "index")
    sandbox = Sandbox(tools={"web_search": index})
    observation, _ = sandbox.run(sandbox.initial, 'print(web_search("corran"))\nweb_search(query="nothing known", k=1)')
    assert observation.stdout == "[1] \nCorran, Corran\n[2] Corran\nA headland.\n"
    assert observation.value == repr("No passage has any of these words.")
    assert [call.name for call in observation.tool_calls] == ["web_search", "web_search"]
    calls = [f"print(web_search('corran', {k}))" for k in (1, 2, 3) for _ in range(8)]
    results = sandbox.run_many([(sandbox.initial, call) for call in calls])
    for call, (observation, _) in zip(calls, results, strict=True):
        assert observation.stdout.startswith("[1] \nCorran, Corran\n"), call
    for call in (
        "web_search()",
        "web_search(3)",
        'web_search("a", 1, 2)',
        'web_search("a", top=1)',
        'web_search("a", k=0)',
    ):
        observation, _ = sandbox.run(sandbox.initial, call)
        assert observation.kind == "tool_error", call


SENTENCE = "This is a sentence of nine words, with a comma. "
LONG = [
    (SENTENCE * 300, f"{(SENTENCE * 83).strip()} [...]"),
    ("word " * 1000, f"{('word ' * 800).strip()} [...]"),
    ("x" * 5000, f"{'x' * 4000} [...]"),
    ("これは文です。" * 1000, f"{'これは文です。' * 571} [...]"),
    (SENTENCE * 83, (SENTENCE * 83).strip()),
    ("short!\n", "short!"),
]


@pytest.mark.parametrize("text, shown", LONG)
def test_long_passages_end_with_a_sentence(text: str, shown: str) -> None:
    assert for_reading([Passage("1", "One", text), Passage("2", "Two", "y")]) == f"[1] One\n{shown}\n[2] Two\ny"


def test_a_file_that_was_cut_while_it_was_open_is_an_error(tmp_path: Path) -> None:
    index = Bm25Index.build([(str(i), "", f"alpha w{i}") for i in range(3000)], tmp_path / "index")
    for file in [file for file in (tmp_path / "index").iterdir() if file.stat().st_size]:
        whole = file.read_bytes()
        os.truncate(file, len(whole) // 2)
        with pytest.raises(RetrievalError, match="was cut while it was open"):
            index.search("alpha w7")
        file.write_bytes(whole)
    assert len(index.search("alpha w7")) == 3


DAMAGED_STORE = """
import json, sys
from pathlib import Path
from agentdistill import Bm25Index, RetrievalError

folder = Path("index")
Bm25Index.build([(str(n), "", f"word{n}") for n in range(300)], folder)
(store,) = folder.glob("*.store")
content = bytearray(store.read_bytes())
number = lambda at: int.from_bytes(content[at : at + 4], "little")
end = len(content) - 8 - number(len(content) - 8)  # Tantivy's footer ends with its length and a magic number
blocks = number(end - 24)  # the place of the list of blocks, in the footer of the store
content[blocks : blocks + 6] = bytes([0x7F] * 5 + [0xFF])  # a length of 2**42
store.unlink()
store.write_bytes(content)
try:
    sys.exit(f"it was opened: {Bm25Index.open(folder)}")
except RetrievalError as error:
    assert "the index is damaged" in str(error) and store.name in str(error), error
metadata = json.loads((folder / "agentdistill.json").read_text())
version_3 = {"version": 3} | {name: metadata[name] for name in ("documents", "skipped", "language", "title_weight")}
(folder / "agentdistill.json").write_text(json.dumps(version_3))  # without checksums
assert [passage.id for passage in Bm25Index.open(folder).search("word7")] == ["7"]
"""


def test_a_damaged_length_does_not_end_the_process(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", DAMAGED_STORE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def pages(sizes: list[tuple[str, int]]) -> list[tuple[str, str, str]]:
    """Pages of some passages, of which only every third names its title."""
    parts = [(title, part) for title, size in sizes for part in range(size)]
    texts = (f"part {part}" + (f" of {title}" if part % 3 == 0 else "") for title, part in parts)
    return [(str(number), title, text) for number, ((title, _), text) in enumerate(zip(parts, texts, strict=True))]


TOWNS = [("Long Corran", 1500), ("Corran", 30), ("corran", 2), ("", 4), ("Strand", 1), ("The Who", 2), ("Corran", 3)]


def test_a_page_has_the_passages_of_its_title_in_order(tmp_path: Path) -> None:
    passages = pages(TOWNS)
    index = Bm25Index.build(passages, tmp_path / "index")

    def check(index: Bm25Index, title: str) -> int:
        expected = [passage for passage in passages if passage[1].lower() == title.strip().lower()]
        found = index.page(title)
        assert [(passage.id, passage.title, passage.text) for passage in found] == expected
        return len(expected)

    for title, size in (("Long Corran", 1500), (" CORRAN\n", 35), ("Strand", 1), ("The Who", 2), ("part", 0), ("?", 0)):
        assert check(index, title) == size
    assert index.page("") == []  # passages without a title are not a page
    gone = [passage for passage in passages if passage[1] == "Corran"][4]
    new = [("n1", "Strand", "more"), ("n2", "Holm", "new"), (passages[7][0], "Long Corran", "replaced")]
    index = index.delete([gone[0]]).add(new)
    passages = [passage for passage in passages if passage not in (gone, passages[7])] + new
    for title, size in (("Long Corran", 1500), ("Corran", 34), ("Strand", 2), ("Holm", 1)):
        assert check(index, title) == size
        assert index.merge().page(title) == index.page(title)


def test_a_page_has_a_maximum_size(tmp_path: Path) -> None:
    index = Bm25Index.build([(str(n), "Corran", "x" * 999_990) for n in range(9)], tmp_path / "index")
    assert [passage.id for passage in index.page("Corran")] == ["0", "1", "2", "3", "4"]
