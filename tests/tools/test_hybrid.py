"""Hybrid search with a tiny real encoder: vectors on disk, the order of passages, what a cell and a server get.

The oracle computes every vector with torch and every score by its definition.
"""

import fcntl
import json
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentdistill import (
    AgentDistillError,
    Bm25Index,
    HttpRetriever,
    HybridRetriever,
    ModelError,
    RetrievalError,
    RetrievalServer,
    Sandbox,
    ScriptedModel,
    Task,
    rollout,
    web_search,
)
from agentdistill.cli.arguments import Search
from agentdistill.cli.data import IndexEncode, IndexSearch
from agentdistill.rollouts.engine import run_of
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.tools.hybrid import DEPTH, WEIGHT
from agentdistill.tools.tool import sandbox_tools
from scripted_server import Server, raw

np, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")

from agentdistill.models.encoder import SentenceEncoder  # noqa: E402
from agentdistill.tools.vectors import Vectors, encode, text_of  # noqa: E402

WORDS = [
    *("corran", "strand", "holm", "beach", "island", "lighthouse"),
    *("town", "large", "old", "north", "of", "the", "is"),
]
PASSAGES = [
    (str(n), WORDS[n % 7], " ".join(WORDS[(n * step + 3) % len(WORDS)] for step in range(1, 4 + n % 9)))
    for n in range(120)
]
QUERIES = ["large beach", "the old lighthouse of corran", "island", "unheard", "north", "\ud800 beach", ""]
SIZE = 32


def save_model(folder: Path, seed: int = 0, *, with_tokenizer: bool = True, with_start: bool = True) -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if with_start:
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    if with_tokenizer:
        special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
        saved = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
        saved.save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"hidden_size": SIZE, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), initializer_range=0.5, **sizes)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Bm25Index:
    return Bm25Index.build(PASSAGES, tmp_path_factory.mktemp("hybrid") / "index")


@pytest.fixture(scope="module")
def vectors(index: Bm25Index, model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hybrid") / "vectors"
    encode(index, model, folder)
    return folder


@pytest.fixture(scope="module")
def hybrid(index: Bm25Index, vectors: Path) -> HybridRetriever:
    return HybridRetriever(index, vectors)


def vector_of(text: str, model: str) -> "np.ndarray":
    """One text's vector, by definition."""
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(model)(text, return_tensors="pt")
    with torch.inference_mode():
        mean = AutoModel.from_pretrained(model)(**inputs).last_hidden_state[0].mean(0).numpy()
    return mean / np.linalg.norm(mean)


def test_vectors_are_normalized_means_of_states(model: str) -> None:
    texts = ["beach", "the old lighthouse of corran " * 9, "island of the north"]
    expected = np.stack([vector_of(text, model) for text in texts])
    assert np.allclose(SentenceEncoder(model)(texts), expected, atol=0.02)  # bfloat16 on some CPUs
    assert SentenceEncoder(model)([]).shape == (0, SIZE)


def test_the_order_is_that_of_the_definition(index: Bm25Index, model: str, hybrid: HybridRetriever) -> None:
    encoder = SentenceEncoder(model)
    for query, found in zip(QUERIES, hybrid.search_batch(QUERIES, 7), strict=True):
        first = index.search(query, DEPTH)
        assert bool(first) == (query not in ("unheard", ""))
        cosines = [float((encoder([text_of(passage)]) @ encoder([query]).T)[0, 0]) for passage in first]
        expected = {p.id: p.score / first[0].score + WEIGHT * cosine for p, cosine in zip(first, cosines, strict=True)}
        scores = [passage.score for passage in found]
        assert scores == pytest.approx([expected[passage.id] for passage in found], abs=0.05)
        assert scores == pytest.approx(sorted(expected.values(), reverse=True)[:7], abs=0.05)
        assert [passage.score for passage in hybrid.search(query, 7)] == pytest.approx(scores, abs=0.05)
    assert hybrid.search_batch([]) == []
    words = "corran strand holm beach"
    assert len(hybrid.search(words, 200)) == len(index.search(words, 200)) > DEPTH
    with pytest.raises(ValueError, match="k"):
        hybrid.search("beach", 0)


def test_vectors_stay_valid_when_the_index_changes(model: str, tmp_path: Path) -> None:
    folder = tmp_path / "vectors"
    changing = Bm25Index.build([*PASSAGES[:80], ("again", *PASSAGES[0][1:])], tmp_path / "index")
    assert len(encode(changing, model, folder)) == 80  # of two equal passages, one
    before = (folder / "vectors").read_bytes()
    changing = changing.add(PASSAGES[80:]).delete(["3"])
    assert [passage.id for passage in changing] == [*(p[0] for p in PASSAGES[:80] if p[0] != "3"), "again"] + [
        p[0] for p in PASSAGES[80:]
    ]
    some_computed = HybridRetriever(changing, folder).search_batch(QUERIES, DEPTH)
    assert (folder / "vectors").read_bytes() == before
    assert len(encode(changing, model, folder)) == len(PASSAGES)
    assert (folder / "vectors").read_bytes().startswith(before)
    all_stored = HybridRetriever(changing.merge(), folder).search_batch(QUERIES, DEPTH)
    for one, other in zip(some_computed, all_stored, strict=True):
        assert [p.score for p in one] == pytest.approx([p.score for p in other], abs=0.05)


KILLED_WHILE_WRITING = {
    "while vectors were written": (8 * 50, 2 * SIZE * 50 + 5),
    "before their texts were written": (8 * 50 + 3, 2 * SIZE * 70),
    "and texts reached the disk first": (8 * 70, 2 * SIZE * 50),
    "before anything was written": (0, 0),
}


@pytest.mark.parametrize("killed", KILLED_WHILE_WRITING)
def test_a_killed_encoding_resumes(
    killed: str, index: Bm25Index, model: str, vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = dict(zip(("texts", "vectors"), KILLED_WHILE_WRITING[killed], strict=True))
    for name, size in {**sizes, "model.json": None}.items():
        (tmp_path / name).write_bytes((vectors / name).read_bytes()[:size])
    kept = len(Vectors(tmp_path))
    assert kept == min(sizes["texts"] // 8, sizes["vectors"] // (2 * SIZE))
    encoded = list[str]()
    run = SentenceEncoder.__call__
    monkeypatch.setattr(SentenceEncoder, "__call__", lambda self, texts: encoded.extend(texts) or run(self, texts))
    encode(index, model, tmp_path)
    assert len(encoded) == 1 + len(PASSAGES) - kept  # and the example
    texts = [text_of(passage) for passage in index]
    found, again = Vectors(tmp_path).find(texts)
    assert found.all()
    assert np.allclose(again, Vectors(vectors).find(texts)[1], atol=0.02)


def test_a_killed_process_resumes(index: Bm25Index, model: str, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from agentdistill import Bm25Index\n"
        "from agentdistill.tools import vectors\n"
        "vectors.BATCH = 16\n"
        "kill = lambda done, share: done == 48 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "vectors.encode(Bm25Index.open(sys.argv[1]), sys.argv[2], sys.argv[3], kill)\n"
    )
    path = index.info()["path"]
    killed = subprocess.run([sys.executable, "-c", code, path, model, str(tmp_path / "vectors")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(Vectors(tmp_path / "vectors")) == 48
    assert len(encode(index, model, tmp_path / "vectors")) == len(PASSAGES)


def test_what_cannot_be_used_says_why(index: Bm25Index, model: str, vectors: Path, tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match="has no vectors that `agentdistill index encode` wrote"):
        HybridRetriever(index, tmp_path / "absent")
    with pytest.raises(ModelError, match="cannot load the sentence encoder"):
        encode(index, str(tmp_path / "absent"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    for wrong in (b"", b"[]", b'{"model": "m", "example": []}', b'{"model": "m", "example": "x"}'):
        broken = tmp_path / "broken"
        broken.mkdir(exist_ok=True)
        (broken / "model.json").write_bytes(wrong)
        with pytest.raises(RetrievalError, match="has no vectors"):
            encode(index, model, broken)
    with (vectors / "texts").open("ab") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        with pytest.raises(RetrievalError, match="another process is writing"):
            encode(index, model, vectors)


def test_a_foreign_folder_is_left_alone(index: Bm25Index, model: str, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("mine")
    with pytest.raises(RetrievalError, match="is not a folder of vectors"):
        encode(index, model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]
    assert (tmp_path / "texts").read_text() == "mine"


def test_vectors_of_another_model_are_refused(index: Bm25Index, model: str, vectors: Path, tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match="has the vectors of another model"):
        encode(index, save_model(tmp_path / "other", seed=1), vectors)
    encoder = save_model(tmp_path / "model")
    encode(index, encoder, tmp_path / "vectors")
    os.rename(encoder, tmp_path / "moved")
    with pytest.raises(ModelError, match="cannot load the sentence encoder"):
        HybridRetriever(index, tmp_path / "vectors")
    assert len(encode(index, str(tmp_path / "moved"), tmp_path / "vectors")) == len(PASSAGES)
    assert HybridRetriever(index, tmp_path / "vectors").search("beach")
    save_model(tmp_path / "moved", seed=1)  # trained again under the same name
    with pytest.raises(RetrievalError, match="has the vectors of another model"):
        HybridRetriever(index, tmp_path / "vectors")


def test_damaged_vectors_are_noticed(index: Bm25Index, vectors: Path, tmp_path: Path) -> None:
    for name in ("model.json", "texts", "vectors"):
        (tmp_path / name).write_bytes((vectors / name).read_bytes())
    (tmp_path / "vectors").write_bytes(b"\0" * (vectors / "vectors").stat().st_size)
    with pytest.raises(RetrievalError, match="is damaged: delete it"):
        HybridRetriever(index, tmp_path).search("beach")


def test_models_that_are_no_sentence_encoders_are_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no-tokenizer: it has no tokenizer"):
        SentenceEncoder(save_model(tmp_path / "no-tokenizer", with_tokenizer=False))
    with pytest.raises(ModelError, match="an empty text has no vector"):
        SentenceEncoder(save_model(tmp_path / "no-start", with_start=False))
    pooling = Path(save_model(tmp_path / "first-token")) / "1_Pooling"
    pooling.mkdir()
    (pooling / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    with pytest.raises(ModelError, match="does not average its last states"):
        SentenceEncoder(str(pooling.parent))


def test_without_the_extra_the_error_names_it(index: Bm25Index, vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentdistill.extras.find_spec", lambda library: None)
    for use in (
        lambda: HybridRetriever(index, vectors),
        IndexEncode(Path(index.info()["path"]), "model", vectors).run,
    ):
        with pytest.raises(AgentDistillError, match=r"pip install 'agentdistill\[train\]'"):
            use()


def test_a_cell_and_a_client_of_a_server_get_the_same(index: Bm25Index, vectors: Path, hybrid: HybridRetriever) -> None:
    expected = hybrid.search_text("large beach", 2)
    with RetrievalServer(index, port=0) as server:
        for lexical in (index, HttpRetriever(server.url)):
            copy = pickle.loads(pickle.dumps(HybridRetriever(lexical, vectors)))
            sandbox = Sandbox(sandbox_tools([web_search(copy, 2)]))
            observation, _ = sandbox.run(sandbox.initial, "print(web_search('large beach'), end='')")
            assert observation.stdout == expected
            assert copy.page("strand") == index.page("strand")
        for options in (Search(index=index.info()["path"]), Search(retriever=server.url)):
            search = Search(options.index, options.retriever, k=2, vectors=vectors).load()
            assert search is not None and search.function.text("large beach") == expected
            assert search.description == web_search(index).description


def test_options_that_do_not_go_together(vectors: Path, server: Server) -> None:
    with pytest.raises(ValueError, match="--vectors needs something to search"):
        Search(vectors=vectors).load()
    server.script = [raw('{"result": [[]]}'), raw("{}")]
    with pytest.raises(ValueError, match="must be a serve-retrieval server"):
        Search(retriever=f"http://127.0.0.1:{server.server_port}", vectors=vectors).load()


def test_many_threads_search_at_once(hybrid: HybridRetriever) -> None:
    queries = [" ".join(WORDS[n % 13 : n % 13 + 1 + n % 5]) for n in range(200)]
    expected = [[passage.id for passage in hybrid.search(query)] for query in queries]
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(hybrid.search, queries))
    assert [[passage.id for passage in each] for each in found] == expected


def test_many_episodes_search_at_once(hybrid: HybridRetriever, index: Bm25Index, tmp_path: Path) -> None:
    def answer(messages: object, prefix: str, number: int) -> str:
        return "Thought: I search.\nCode:\n```py\nfinal_answer(web_search('large beach'))\n```<end_code>"

    tools = [web_search(hybrid, 2)]
    tasks = [Task(str(n), "Which beach is large?", "none") for n in range(24)]
    episodes = rollout(tasks, ScriptedModel("m", answer), tools=tools)
    assert {episode.answer for episode in episodes} == {hybrid.search_text("large beach", 2)}
    runs = [run_of("m", each, RolloutConfig()) for each in (tools, [web_search(index, 2)])]
    assert runs[0] != runs[1]


def test_the_commands(index: Bm25Index, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, folder = Path(index.info()["path"]), tmp_path / "vectors"
    IndexEncode(path, model, folder).run()
    shown = capsys.readouterr()
    assert f"{folder}: {len(PASSAGES)} vectors\n" == shown.out
    assert f"encode: {len(PASSAGES)} passages" in shown.err
    IndexSearch(path, "large beach", 2, vectors=folder, json=True).run()
    found = [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]
    assert found == [passage.id for passage in HybridRetriever(index, folder).search("large beach", 2)]
