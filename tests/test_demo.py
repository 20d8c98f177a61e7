"""The demo: its questions follow from its passages, the teacher uses only those, the base models know none of the
answers, and it runs."""

import json
import random
import re
from pathlib import Path

import pytest

from agentdistill import Bm25Index
from agentdistill.demo.run import BASE, SETS, DemoConfig, comparisons, demo, make_world, parameters
from agentdistill.demo.teacher import teacher
from agentdistill.demo.world import CHAINS, LARGE, RELATIONS, Names, cluster, fact_question, problem, share
from agentdistill.distillation import GenerateConfig, generate, select
from agentdistill.models.model import Message, Sampling
from agentdistill.tasks.task import Task
from agentdistill.tools.tool import web_search
from agentdistill.training.config import TrainConfig

SMALL = DemoConfig(
    sizes=("S",),
    train_tasks=48,
    test_tasks=3,
    candidates=2,
    training=TrainConfig(method="full", learning_rate=2e-3, epochs=1, batch_size=16, prompt=""),
)


@pytest.fixture(scope="module")
def world():
    return make_world(SMALL)


def words(text: str) -> set[str]:
    """Names and large numbers, which training and test must not share."""
    return {w for w in re.findall(r"[A-Z][a-z]+|\d+", text) if not w.isdigit() or int(w) >= LARGE[0]}


# ---- the world -----------------------------------------------------------------------------------


def test_the_world_is_the_same_every_time(world) -> None:
    assert make_world(SMALL) == world


def test_training_and_test_share_no_name_and_no_large_number(world) -> None:
    common = set.intersection(*(words(" ".join(t.question for t in tasks)) for tasks in (world.train, world.test)))
    in_domain = words(" ".join(t.question for t in world.test if t.task_set.endswith("in_domain")))
    for word in common - in_domain:  # only words of the questions themselves remain
        assert not word.isdigit()
        assert all(word not in entity.name.split() for entity in world.entities)
    unseen = [t for t in world.test if t.task_set == "facts"]
    assert all(
        share(w) == "test" for t in unseen for e in world.entities if e.name in t.question for w in e.name.split()
    )


def test_no_question_is_asked_in_training_and_test(world) -> None:
    assert not {t.question for t in world.train} & {t.question for t in world.test}
    assert {t.task_set for t in world.test} == set(SETS)


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_answers_follow_from_the_passages(hops: int) -> None:
    """The oracle reads the indexed texts and follows the chain of facts."""
    rng = random.Random(hops)
    for _ in range(50):
        entities = cluster(Names(rng, "train"), rng)
        texts = {title: text for _, title, text in (e.passage for e in entities)}
        question = fact_question(entities, hops, rng)
        at = question.entity
        for link in question.chain:
            at = re.search(rf"(?:Its|Their) {link} is ([\w ]+)\.", texts[at])[1]
        assert at == question.answer
        assert len(question.chain) == hops
        assert question.entity in question.text


def test_there_are_chains_of_every_length_from_every_kind() -> None:
    assert {kind for kind, _ in CHAINS[3]} == set(RELATIONS)


# ---- the teacher ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tools(world, tmp_path_factory: pytest.TempPathFactory):
    return [
        web_search(Bm25Index.build([e.passage for e in world.entities], tmp_path_factory.mktemp("world") / "index"))
    ]


@pytest.mark.parametrize("first_thought_prefix", [False, True])
def test_a_teacher_that_does_not_err_solves_everything_by_its_tools(world, tools, first_thought_prefix: bool) -> None:
    model = teacher(world.entities if first_thought_prefix else [], error_rate=0, seed=0)
    config = GenerateConfig(first_thought_prefix=first_thought_prefix)
    trajectories = generate([*world.train, *world.test], model, tools, config, progress=False)
    assert [t.question for t in trajectories if t.score != 1] == []


def test_a_teacher_that_does_not_err_knows_its_world(world) -> None:
    model = teacher(world.entities, error_rate=0, seed=0)
    trajectories = generate(world.train, model, config=GenerateConfig(kind="cot"), progress=False)
    assert [t.question for t in trajectories if t.score != 1] == []


def test_selection_drops_what_the_teacher_got_wrong(world, tools) -> None:
    tasks = [Task(f"{t.id}/{i}", t.question, t.answer, t.task_set, t.kind) for i, t in enumerate(world.train)]
    trajectories = generate(tasks, teacher(world.entities, error_rate=1, seed=1), tools, progress=False)
    kept, dropped = select(trajectories)
    assert set(dropped) == {"wrong_answer", "parse_failure"}
    kinds = [step.candidates[step.winner].observation.kind for t in kept for step in t.steps]
    assert "exception" in kinds  # a failed step that the episode recovers from is kept


async def test_the_teacher_says_when_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="cannot parse the question 'Why\\?'"):
        await teacher([], 0, 0).generate([Message("user", "Why?")], Sampling())


# ---- the bases -----------------------------------------------------------------------------------


def test_the_bases_are_small() -> None:
    assert sum(path.stat().st_size for path in BASE.rglob("*") if path.is_file()) < 3_000_000
    assert [round(parameters(size) / 1e6, 1) for size in ("S", "M")] == [0.3, 0.6]


def test_the_bases_text_is_other_text() -> None:
    pytest.importorskip("torch")
    from agentdistill.demo.pretrain import WORDS, Writer

    writer = Writer(7)
    text = "\n".join(writer.document() for _ in range(500))
    lists_of_words = r"Say it again: .*"
    assert "web_search(" not in text
    assert "final_answer(" not in text
    assert "Thought:" not in text
    assert {share(w) for w in words(re.sub(lists_of_words, "", text)) if w.isdigit()} == {"base"}
    rng = random.Random(0)
    for owner in ("train", "test"):
        names = Names(rng, owner)
        assert not {names.thing() for _ in range(300)} & set(text.split()) - set(WORDS)
    assert problem(LARGE, "test", rng).text not in text


def test_a_name_is_the_same_tokens_wherever_it_stands() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(BASE / "S")
    rng = random.Random(0)
    names = Names(rng, "test")
    for name in [names.thing() for _ in range(50)] + [names.person() for _ in range(50)]:
        alone = tokenizer.tokenize(name)
        for before, after in (
            ('print(web_search("', '"))'),
            ("Who directed ", "?"),
            ("[1] ", "\n"),
            ("Its seat is ", "."),
        ):
            assert tokenizer.tokenize(before + name + after) == tokenizer.tokenize(before) + alone + tokenizer.tokenize(
                after
            )
    assert tokenizer.decode(tokenizer.encode("Größe: 3 €\n\tif x:")) == "Größe: 3 €\n\tif x:"


# ---- the whole -----------------------------------------------------------------------------------


def test_the_demo_runs_and_resumes(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    output = tmp_path / "demo"
    rows = demo(output, config=SMALL, progress=False)
    assert json.loads((output / "results.json").read_text()) == rows
    assert [(row["arm"], row["task_set"]) for row in rows] == [
        (arm, name) for arm in ("cot", "agent", "agent+sag") for name in (*SETS, "all")
    ]
    assert all(row.keys() == rows[0].keys() and 0 <= row["accuracy"] <= 1 for row in rows)
    assert [row["n"] for row in rows[:5]] == [3, 3, 3, 3, 12]
    page = (output / "index.html").read_text()
    assert page.count("<svg") == 2 and "http" not in page  # the page fetches nothing
    assert (output / "means.png").read_bytes().startswith(b"\x89PNG")

    made = {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    assert demo(output, config=SMALL, progress=False) == rows
    assert made == {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    with pytest.raises(ValueError, match="other settings"):
        demo(output, quick=True)


def test_comparisons_are_of_adjacent_sizes() -> None:
    def row(size: str, arm: str, accuracy: float) -> dict[str, object]:
        return {"size": size, "arm": arm, "task_set": "all", "accuracy": accuracy}

    rows = [
        row(size, arm, x)
        for size, arm, x in [("S", "cot", 0.2), ("S", "agent", 0.5), ("M", "cot", 0.6), ("M", "agent", 0.7)]
    ]
    assert comparisons(rows) == ["agent-distilled S (50%) does not beat CoT-distilled M (60%)"]
