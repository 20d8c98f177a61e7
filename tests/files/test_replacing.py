"""Files that are written beside an output before they replace it: symlinks planted there by others are not followed."""

import json
import os
from pathlib import Path

import pytest

from agentdistill import Bm25Index, Task, evaluate, rollout
from agentdistill.distillation import select
from agentdistill.files.formats import convert
from agentdistill.files.replacing import replacing
from agentdistill.models.scripted import ScriptedModel
from agentdistill.recipe import Step
from agentdistill.results.regrading import regrade
from agentdistill.results.report import write_report
from agentdistill.rollouts.player import RolloutConfig

TASKS = [Task("1", "q", "1")]
KINDS = ("json", "txt")
MODEL = ScriptedModel("m", lambda *_: "Thought: x\nCode:\n```py\nfinal_answer(1)\n```<end_code>")


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    rollout([Task("1", "q", "1")], MODEL, output=tmp_path / "t.jsonl", progress=False)
    return tmp_path / "t.jsonl"


def plant(place: Path, target: Path) -> None:
    """A symlink at ``place`` to a folder or file of the user's."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix:
        target.write_text("precious")
    else:
        target.mkdir()
        (target / "photo.jpg").write_text("precious")
    place.symlink_to(target)


WRITERS = {
    "convert to lines": ("o.jsonl", ".o.jsonl.new", lambda t, o: convert(t, o, target="messages", progress=False)),
    "convert to a list": ("o.json", ".o.json.new", lambda t, o: convert(t, o, target="messages", progress=False)),
    "convert to ours": ("o.jsonl", ".o.jsonl.new", lambda t, o: convert(t, o, progress=False)),
    "convert to a table": (
        "o.parquet",
        ".o.parquet.new",
        lambda t, o: convert(t, o, target="messages", progress=False),
    ),
    "convert to a data set": ("o", ".o.new", lambda t, o: convert(t, o, target="messages", progress=False)),
    "select": ("o.jsonl", ".o.jsonl.new", lambda t, o: select(t, o)),
    "metrics": ("m.json", ".m.json.new", lambda t, o: rollout([Task("1", "q", "1")], MODEL, progress=False, metrics=o)),
    "a recipe's step": ("o", ".o.step.json", lambda t, o: Step("x", (), o).set_done()),
    "a recipe's step, written": ("o", "..o.step.json.new", lambda t, o: Step("x", (), o).set_done()),
}


@pytest.mark.parametrize("target", ["home/file.txt", "home/folder"])
@pytest.mark.parametrize("writer", WRITERS)
def test_links_are_not_followed(writer: str, target: str, recorded: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs agentdistill[tables]")
    name, beside, write = WRITERS[writer]
    shared = tmp_path / "shared"
    shared.mkdir()
    plant(shared / beside, tmp_path / target)
    write(recorded, shared / name)
    kept = tmp_path / target if (tmp_path / target).is_file() else tmp_path / target / "photo.jpg"
    assert kept.read_text() == "precious"
    assert sorted(os.listdir(kept.parent)) == [kept.name]


PRECIOUS = {
    "results": b'{"accuracy": 0.93, "weeks of work": true}',
    "notes": b"important, and no newline",
    "lines": b"a\nb\n",
    "JSON lines": b'{"a": 1}\n{"a": 2}\n',
    "a list": b'[{"a": 1},\n {"a": 2}]',
    "a page": b"<!doctype html>\n<title>My page</title>",
    "bytes": bytes(range(256)),
    "a table": None,
}
REPLACING = [
    ("o.jsonl", select),
    ("o.jsonl", lambda t, o: regrade(t, output=o, progress=False)),
    ("o.html", lambda t, o: write_report([t], o)),
    ("o.jsonl", lambda t, o: convert(t, o, progress=False)),
    ("o.json", lambda t, o: convert(t, o, target="messages", progress=False)),
    ("o.parquet", lambda t, o: convert(t, o, target="sharegpt", progress=False)),
    ("o", lambda t, o: convert(t, o, target="prompt-completion", progress=False)),
    *((f"o/results.{kind}", lambda t, o: evaluate(TASKS, MODEL, output=o.parent, progress=False)) for kind in KINDS),
]


@pytest.mark.parametrize("writer", range(len(REPLACING)))
def test_only_files_of_the_same_kind_are_replaced(writer: int, recorded: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs agentdistill[tables]")
    pytest.importorskip("matplotlib", reason="needs agentdistill[report]")
    parquet = pytest.importorskip("pyarrow.parquet")
    name, write = REPLACING[writer]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    for content in PRECIOUS.values():
        if content is None:
            parquet.write_table(pyarrow.table({"a": [1, 2]}), tmp_path / name)
        else:
            (tmp_path / name).write_bytes(content)
        before = (tmp_path / name).read_bytes()
        with pytest.raises(OSError, match=f"{tmp_path}/{name}"):
            write(recorded, tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    (tmp_path / name).unlink()
    write(recorded, tmp_path / name)
    written = (tmp_path / name).is_file() and (tmp_path / name).read_bytes()
    write(recorded, tmp_path / name)
    assert written == ((tmp_path / name).is_file() and (tmp_path / name).read_bytes())


@pytest.mark.parametrize("writer", range(len(REPLACING)))
def test_a_pipe_is_not_replaced(writer: int, recorded: Path, tmp_path: Path) -> None:
    """As root, a rename over /dev/null would work."""
    name, write = REPLACING[writer]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(FileExistsError, match="this is a device or a pipe and will not be replaced"):
        write(recorded, tmp_path / name)
    assert (tmp_path / name).is_fifo()


def test_a_folder_is_no_file_to_write() -> None:
    with pytest.raises(IsADirectoryError, match="this is a folder: give a file"), replacing(Path("")):
        pass


@pytest.mark.parametrize("content", [content for content in PRECIOUS.values() if content])
def test_metrics_replace_only_metrics(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    file.write_bytes(content)
    with pytest.raises(FileExistsError, match=r"metrics\.json"):
        rollout(TASKS, MODEL, metrics=file, progress=False)
    with pytest.raises(FileExistsError, match=r"metrics\.json"):
        evaluate(TASKS, MODEL, output=tmp_path, progress=False)
    assert file.read_bytes() == content
    with pytest.raises(ValueError, match="is the file of trajectories and of metrics"):
        rollout(TASKS, MODEL, output=tmp_path / "new.jsonl", metrics=tmp_path / "new.jsonl", progress=False)


def test_a_regraded_evaluation_does_not_replace_the_results_of_others(tmp_path: Path) -> None:
    evaluate(TASKS, MODEL, output=tmp_path / "mine", progress=False)
    (tmp_path / "other").mkdir()
    for name in ("results.json", "results.txt"):
        file = tmp_path / "other" / name
        file.write_text("precious")
        with pytest.raises(FileExistsError, match=name):
            regrade(tmp_path / "mine", output=tmp_path / "other", progress=False)
        assert file.read_text() == "precious"
        file.unlink()


@pytest.mark.parametrize("inside", [None, "passages", "lock", "other"])
def test_an_index_is_not_built_through_a_link(inside: str | None, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    if inside is None:
        plant(shared / ".wiki.building", tmp_path / "home" / "folder")
    else:
        (shared / ".wiki.building").mkdir()
        plant(shared / ".wiki.building" / inside, tmp_path / "home" / "folder")
    try:
        Bm25Index.build([("1", "a", "a")], shared / "wiki")
    except Exception as error:
        assert ".wiki.building" in str(error)
    assert os.listdir(tmp_path / "home" / "folder") == ["photo.jpg"]


def test_half_done_episodes_are_not_kept_through_a_link(tmp_path: Path) -> None:
    plant(tmp_path / ".o.jsonl.half-done", tmp_path / "home" / "folder")
    with pytest.raises(FileExistsError, match="link"):
        config = RolloutConfig(checkpoints=True)
        rollout([Task("1", "q", "1")], MODEL, config=config, output=tmp_path / "o.jsonl", progress=False)
    assert os.listdir(tmp_path / "home" / "folder") == ["photo.jpg"]


def test_a_folder_of_that_name_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / ".o.json.new").mkdir()
    (tmp_path / ".o.json.new" / "photo.jpg").write_text("precious")
    with pytest.raises(OSError), replacing(tmp_path / "o.json") as new:
        new.write_text(json.dumps(1))
    assert (tmp_path / ".o.json.new" / "photo.jpg").read_text() == "precious"
