"""Tasks: every file format, defaults for missing fields, and errors that name the place."""

import gzip
import json
import re
from pathlib import Path

import pytest

from agentdistill.tasks.loading import load_tasks
from agentdistill.tasks.task import Task, kind_of

ROWS = [
    {"id": 7, "question": "Who?", "answer": "Ann", "level": "hard", "dataset_name": "hotpotqa"},
    {"id": "b", "question": "How many?", "answer": 13138980.0, "dataset_name": "GSM-hard"},
]
TASKS = [
    Task("7", "Who?", "Ann", "hotpotqa", "fact"),
    Task("b", "How many?", "13138980.0", "GSM-hard", "math"),
]

FORMS = {
    "paper.json": json.dumps({"metadata": {"dataset_info": {"name": "MATH"}}, "examples": ROWS}, indent=4),
    "list.json": json.dumps(ROWS),
    "lines.jsonl": "\n\n".join(map(json.dumps, ROWS)) + "\n",
    "LINES.JSONL": "\ufeff" + "\n".join(map(json.dumps, ROWS)),
    "table.csv": "id,question,answer,level,dataset_name\n7,Who?,Ann,hard,hotpotqa\nb,How many?,13138980.0,,GSM-hard\n",
}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_file(tmp_path: Path, name: str) -> None:
    tasks = load_tasks(write(tmp_path, name, FORMS[name]))
    assert tasks == TASKS
    assert tasks[0].metadata["level"] == "hard"
    assert "level" not in tasks[1].metadata or tasks[1].metadata["level"] is None


def test_arguments_go_before_what_the_file_says(tmp_path: Path) -> None:
    path = write(tmp_path, "list.json", FORMS["list.json"])
    assert [(t.task_set, t.kind) for t in load_tasks(path, "mine", kind="math")] == [("mine", "math")] * 2
    assert load_tasks(path, limit=1) == TASKS[:1]
    assert load_tasks(path, limit=5) == TASKS


LONG = {
    "tasks.jsonl": (b'{"question": "\xc3\xa9?", "answer": "Ann"}\n', b'{"question": "\xe9?", "answer": "Bob"}\n'),
    "tasks.csv": (b"question,answer\n\xc3\xa9?,Ann\n", b"\xe9?,Bob\n"),
}


@pytest.mark.parametrize("name", LONG)
def test_what_comes_after_the_limit_is_not_read(tmp_path: Path, name: str) -> None:
    good, bad = LONG[name]
    path = tmp_path / name
    path.write_bytes(good + bad)
    assert [task.answer for task in load_tasks(path, limit=1)] == ["Ann"]
    with pytest.raises(ValueError, match=rf"{name}: byte {len(good) + bad.index(0xE9)} is not UTF-8"):
        load_tasks(path)


OTHER_BYTES = {
    "gzip": (gzip.compress(b"{}"), "byte 1 is not UTF-8: decompress it"),
    "UTF-16": ('{"question": "?"}'.encode("utf-16"), "byte 0 is not UTF-8: save it as UTF-8"),
}


@pytest.mark.parametrize("name", OTHER_BYTES)
@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv"])
def test_a_file_that_is_no_text(tmp_path: Path, name: str, suffix: str) -> None:
    content, message = OTHER_BYTES[name]
    (tmp_path / f"tasks.{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=rf"tasks\.{suffix}: {message}"):
        load_tasks(tmp_path / f"tasks.{suffix}")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\r\n\r"])
@pytest.mark.parametrize("name", ["lines.jsonl", "table.csv"])
def test_lines_may_end_in_any_way(tmp_path: Path, name: str, end: str) -> None:
    path = tmp_path / name
    path.write_bytes(FORMS[name].replace("\n", end).encode())
    assert load_tasks(path) == TASKS


KINDS = [
    ({"answer": "Ann"}, "fact"),
    ({"answer": "1887"}, "math"),
    ({"answer": "-1,234.5e3"}, "math"),
    ({"answer": "12 May"}, "fact"),
    ({"answer": 5}, "math"),
    ({"answer": "1887", "dataset_name": "2wikimultihopqa"}, "fact"),
    ({"answer": "Evelyn", "dataset_name": "MATH"}, "math"),
    ({"answer": "Evelyn", "task_set": "AIME 2024"}, "math"),
    ({"answer": "1887", "kind": "fact"}, "fact"),
]


@pytest.mark.parametrize("fields, kind", KINDS)
def test_the_kind_is_told(tmp_path: Path, fields: dict[str, object], kind: str) -> None:
    (task,) = load_tasks(write(tmp_path, "tasks.jsonl", json.dumps({"question": "?", **fields})))
    assert task.kind == kind
    assert task.task_set == fields.get("task_set", fields.get("dataset_name", "tasks"))


def test_an_id_is_made_from_the_question(tmp_path: Path) -> None:
    lines = [json.dumps({"question": q, "answer": "x"}) for q in "abc"]
    ids = [task.id for task in load_tasks(write(tmp_path, "one.jsonl", "\n".join(lines)))]
    assert len(set(ids)) == 3
    assert [task.id for task in load_tasks(write(tmp_path, "two.jsonl", "\n".join(lines[1:])))] == ids[1:]


def test_answers_that_are_as_right(tmp_path: Path) -> None:
    row = {"question": "When?", "answer": "the nineties", "answer_aliases": ["1990s", "", 1990]}
    [task] = load_tasks(write(tmp_path, "t.jsonl", json.dumps(row)))
    assert task.answers == ("the nineties", "1990s", "1990") and not task.metadata


def test_tasks_without_an_answer_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"question": "a", "answer": None}, {"question": "b", "answer": "x"}, {"question": "c", "answer": ""}]
    path = write(tmp_path, "tasks.json", json.dumps(rows))
    assert [task.question for task in load_tasks(path, limit=1)] == ["b"]
    assert [task.question for task in load_tasks(path)] == ["b"]
    assert f"skipping 2 of 3 tasks without an answer (null or empty): {path}: example 1, {path}: " in caplog.text


GOOD = '{"question": "?", "answer": "x"}'
BAD = [
    ("t.jsonl", f"{GOOD}\n{{]", "t.jsonl:2: not JSON"),
    ("t.jsonl", f"\n\n{GOOD}\n5", "t.jsonl:4: a task is an object with question and answer, not 5"),
    ("t.jsonl", '{"answer": "x"}', "t.jsonl:1: it has no question"),
    ("t.jsonl", '{"question": " ", "answer": "x"}', "t.jsonl:1: it has no question but an empty string"),
    ("t.jsonl", '{"question": null, "answer": "x"}', "t.jsonl:1: it has no question but null"),
    ("t.jsonl", '{"question": "?"}', "t.jsonl:1: the task has no answer"),
    ("t.jsonl", '{"question": "?", "answer": ["x"]}', "t.jsonl:1: its answer is a list: give a string or a number"),
    ("t.jsonl", '{"question": "?", "answer": true}', "t.jsonl:1: its answer is a boolean"),
    ("t.jsonl", '{"question": "?", "answer": NaN}', "t.jsonl:1: its answer is nan"),
    ("t.jsonl", '{"question": "?", "answer": "x", "id": {}}', "t.jsonl:1: its id is an object"),
    ("t.jsonl", '{"question": "?", "answer": "x", "kind": "fiction"}', "t.jsonl:1: its kind is 'fiction': give one of"),
    ("t.jsonl", '{"question": "?", "answer": "x", "task_set": 3}', "t.jsonl:1: its task set is 3"),
    ("t.jsonl", '{"question": "?", "answer": "x", "answer_aliases": "y"}', "t.jsonl:1: its answer_aliases are 'y'"),
    ("t.jsonl", '{"question": "?", "answer": "x", "answer_aliases": [{}]}', "give a list of strings or numbers"),
    ("t.jsonl", f"{GOOD}\n{GOOD}", r"t.jsonl:2: the same question, without an id, is already used by \S*t.jsonl:1"),
    ("t.csv", "id,question,answer\n1,?,x\n1,??,x\n", r"t.csv:3: the id '1' is already used by \S*t.csv:2: give each"),
    ("t.jsonl", f"[{GOOD}]", r"t.jsonl:1: a list, but each line of \.jsonl is a task: name a list of tasks \.json"),
    ("t.json", f"{GOOD}\n{GOOD}", r"t.json:2: not JSON: Extra data; name a file with one task per line \.jsonl"),
    ("t.jsonl", f"{GOOD}\n{'[' * 100_000}", "t.jsonl:2: its JSON is nested too deeply"),
    ("t.json", "[" * 100_000, "t.json: its JSON is nested too deeply"),
    ("t.csv", "question,question,answer\na,b,c\n", "t.csv: the column 'question' occurs twice"),
    ("t.jsonl", "", "t.jsonl has no task with an answer"),
    ("t.json", '{\n"examples": [\n}', "t.json:3: not JSON"),
    ("t.json", '{"data": []}', "t.json: not a task set"),
    ("t.json", f'{{"examples": [{GOOD}, {{}}]}}', "t.json: example 2: it has no question"),
    ("t.csv", "question,answer\na,b\nc\n", "t.csv:3: the number of fields differs from the header"),
    ("t.csv", "question,answer\na,b,c\n", "t.csv:2: the number of fields differs from the header"),
    ("t.csv", "question\na\n", "t.csv: the columns are 'question': give question and answer"),
    ("t.csv", "", "t.csv has no task with an answer"),
    ("t.jsonl", '{"question": "?", "answers": ["x"]}', "t.jsonl:1: the task has no answer, but question, answers"),
    ("t.jsonl", '{"question": "?", "answer": "x", "answer_aliases": [true]}', "give a list of strings or numbers"),
    ("t.csv", "question,answer,answer_aliases\n?,x,y\n", "t.csv:2: its answer_aliases are 'y'"),
    ("t.csv", f"question,answer,answer_aliases\n?,x,{'[' * 100_000}\n", "t.csv:2: its answer_aliases are"),
    ("t.csv", 'question,answer\n"a"b,c\n', "t.csv:2: not CSV"),
    ("t.csv", 'question,answer\nQ,a\n"a,\nb', "t.csv:3: not CSV: unexpected end of data"),
    (
        "t.csv",
        "question,answer,answer_aliases\n?,x,\"['y' 'z']\"\n",
        "t.csv:2: its answer_aliases are \"\\['y' 'z'\\]\"",
    ),
    ("t.jsonl", '{"question": "?", "answer": "x", "aliases": "y"}', "t.jsonl:1: its aliases are 'y': give a list"),
    ("t.jsonl", '{"question": "?", "golden_answers": "y"}', "t.jsonl:1: its golden_answers are 'y': give a list"),
    ("t.jsonl", '{"Question": "?", "answer": "x"}', "t.jsonl:1: it has no question but Question, answer"),
    ("t.txt", GOOD, "cannot load tasks from a .txt file: give .json, .jsonl, .csv"),
    ("t", GOOD, "from a file without a suffix"),
]


@pytest.mark.parametrize("name, text, message", BAD)
def test_a_malformed_file_says_where(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_tasks(write(tmp_path, name, text))


HUB_NAMES = {
    "openai/gsm8k": r"load_dataset\('openai/gsm8k', split='test'\)\.save_to_disk\('gsm8k'\)",
    "HuggingFaceH4/MATH-500": "For HuggingFaceH4/MATH-500 of the hub, give math500",
}


@pytest.mark.parametrize("name", HUB_NAMES)
def test_a_data_set_named_as_on_the_hub_is_refused_with_how_to(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=HUB_NAMES[name]):
        load_tasks(name)


@pytest.mark.parametrize(("name", "n"), [("gsm_hard_1319", 1319), ("svamp_1000", 1000)])
def test_word_problems_are_read_as_they_are_published(shared_data: Path, name: str, n: int) -> None:
    tasks = load_tasks(shared_data / "tasks" / f"{name}.jsonl", kind="math")
    assert len(tasks) == n and all(task.question and task.answer for task in tasks)


def test_gsm8k_is_read_as_it_is_published(shared_data: Path) -> None:
    tasks = load_tasks(shared_data / "tasks" / "gsm8k" / "test.jsonl", "gsm8k")
    assert len(tasks) == 1319 and {task.kind for task in tasks} == {"math"}
    assert all(task.answer and re.fullmatch(r"-?[\d,.]+", task.answer) for task in tasks)


def test_flashrag_is_read_as_it_is_published(tmp_path: Path) -> None:
    row = {"id": "test_0", "question": "Q?", "golden_answers": ["a", "b"], "metadata": {"type": "x"}}
    path = write(tmp_path, "t.jsonl", json.dumps(row))
    [task] = load_tasks(path)
    assert (task.id, task.answers, dict(task.metadata)) == ("test_0", ("a", "b"), {"metadata": {"type": "x"}})
    write(tmp_path, "t.jsonl", json.dumps(row | {"golden_answers": []}))
    with pytest.raises(ValueError, match="the task has no answer, but"):
        load_tasks(path)


def test_other_bad_arguments(tmp_path: Path) -> None:
    path = write(tmp_path, "t.jsonl", GOOD)
    with pytest.raises(ValueError, match="limit is 0"):
        load_tasks(path, limit=0)
    with pytest.raises(ValueError, match="kind is 'x'"):
        load_tasks(path, kind="x")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"missing\.jsonl"):
        load_tasks(tmp_path / "missing.jsonl")
    path.write_bytes(b'{"question": "\xff", "answer": "x"}')
    with pytest.raises(ValueError, match=r"t\.jsonl: byte 14 is not UTF-8"):
        load_tasks(path)
    path.write_bytes(b"\n" * 100_000 + b"\xff")
    with pytest.raises(ValueError, match=r"t\.jsonl: byte 100000 is not UTF-8"):
        load_tasks(path)


PAPER = [
    ("2wikimultihopqa_500_20250511.json", 500, "2wikimultihopqa", "fact"),
    ("gsm_hard_500_20250507.json", 500, "GSM-hard", "math"),
    ("hotpotqa_1000_20250402.json", 1000, "hotpotqa/hotpot_qa", "fact"),
    ("hotpotqa_500_20250422.json", 500, "hotpotqa/hotpot_qa", "fact"),
    ("math_1000_20250414.json", 998, "MATH", "math"),
    ("math_500_20250414.json", 500, "MATH", "math"),
    ("math_medium_1000_20250430.json", 998, "MATH", "math"),
]


@pytest.mark.parametrize("name, count, task_set, kind", PAPER)
def test_the_papers_files(shared_data: Path, name: str, count: int, task_set: str, kind: str) -> None:
    tasks = load_tasks(shared_data / "tasks" / name)
    assert (len(tasks), {t.task_set for t in tasks}, {t.kind for t in tasks}) == (count, {task_set}, {kind})
    assert len({task.id for task in tasks}) == count


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        *[(text, "math") for text in ("1/2", "-3/4", "50%", "$70,000", r"\frac{18}{5}", "x^2", "1e-5")],
        *[
            (text, "math")
            for text in (r"\tfrac{4}{9}", r"10,\!000", "2516_8", "(0,9)", "[0, 25)", "1, -2", ".2", r"\$1.17")
        ],
        *[(text, "math") for text in ("x=5", "y = -2x + 1", "15x - 80", "6 - 5i", "(a+5)(b+2)", "2x-1")],
        *[(text, "fact") for text in ("Paris", "1990-05-12", "12/25/1990", "AC/DC", "3 Doors Down", "either/or")],
        *[
            (text, "fact")
            for text in ("F-16", "f-16", "3-2", "1914-1918", "x-ray", "9:24", "vitamin b-12", "U2", "a + b", "7-up")
        ],
    ],
)
def test_the_kind_is_told_from_the_answer(answer: str, kind: str) -> None:
    assert kind_of("mine", answer) == kind


FILES: list[tuple[str, str, list[tuple[str, str, tuple[str, ...]]]]] = [
    ("gsm8k.jsonl", '{"question": "Q?", "answer": "3+4=<<3+4=7>>7 apples.\\n#### 7"}\n', [("Q?", "7", ())]),
    ("gsm8k.jsonl", '{"question": "Q?", "answer": "So\\n#### 1,234\\n"}\n', [("Q?", "1,234", ())]),
    ("digits.jsonl", f'{{"question": "Q?", "answer": {"7" * 5000}}}\n', [("Q?", "7" * 5000, ())]),
    ("digits.json", f'[{{"question": "Q?", "answer": -{"7" * 5000}}}]', [("Q?", "-" + "7" * 5000, ())]),
    ("many.csv", f"question,answer,answer_aliases\nQ?,7,[{'7' * 5000}]\n", [("Q?", "7", ("7" * 5000,))]),
    ("digits.csv", f"question,answer\nQ?,{'7' * 5000}\n", [("Q?", "7" * 5000, ())]),
    ("surrogate.jsonl", '{"question": "Q\\ud800?", "answer": "a\\udfff"}\n', [("Q\ufffd?", "a\ufffd", ())]),
    ("gsm_hard.jsonl", '{"input": "Q?", "code": "1", "target": -3.0}', [("Q?", "-3.0", ())]),
    ("svamp.jsonl", '{"Body": "I have 2", "Question": "Q?", "Answer": 2.0}', [("I have 2. Q?", "2.0", ())]),
    ("svamp.csv", "Body,Question,Answer\nI have 2.,Q?,2.0\n", [("I have 2. Q?", "2.0", ())]),
    ("math.jsonl", '{"problem": "Q?", "solution": "x", "answer": "\\\\frac12"}', [("Q?", "\\frac12", ())]),
    ("both.jsonl", '{"question": "Q?", "answer": "a", "input": "x", "target": "y"}', [("Q?", "a", ())]),
    ("hashes.jsonl", '{"question": "Q?", "answer": "C#### is none"}\n', [("Q?", "C#### is none", ())]),
    ("long.csv", f"question,answer,context\nWho?,Me,{'x' * 200_000}\n", [("Who?", "Me", ())]),
    *(
        (
            "decimals.jsonl",
            f'{{"question": "Q?", "answer": {number}, "answer_aliases": [{number}]}}',
            [("Q?", number, (number,))],
        )
        for number in ("1.10", "0.1234567890123456789", "1e5", "12345678901234567890.5", "-0.0")
    ),
    ("blanks.csv", "id, question , answer\n1,Q?, a\n", [("Q?", "a", ())]),
    ("blanks.csv", '\n\nquestion, answer\nQ?, "a, b"\n', [("Q?", "a, b", ())]),
    ("large.json", '[{"question": "Q?", "answer": 1e400}]', [("Q?", "1e400", ())]),
    ("alias.jsonl", '{"question": "Q?", "answer": "a", "aliases": ["b", "b", 1.50]}', [("Q?", "a", ("b", "1.50"))]),
    ("golden.jsonl", '{"question": "Q?", "golden_answers": ["a"], "aliases": ["b"]}', [("Q?", "a", ("b",))]),
    ("golden.jsonl", '{"question": "Q?", "answer": "a", "golden_answers": ["a", "b"]}', [("Q?", "a", ("b",))]),
    ("golden.csv", "question,golden_answers\nQ?,\"['a', 'b']\"\n", [("Q?", "a", ("b",))]),
    ("tuple.csv", "question,answer,aliases\nQ?,a,\"('b', 'c')\"\n", [("Q?", "a", ("b", "c"))]),
    (
        "python.csv",
        "question,answer,answer_aliases\nWho?,Me,\"['I', 7]\"\n",
        [("Who?", "Me", ("I", "7"))],
    ),
    (
        "aliases.csv",
        'question,answer,answer_aliases\nWho?,Me,"[""I"", ""myself""]"\n',
        [("Who?", "Me", ("I", "myself"))],
    ),
]


@pytest.mark.parametrize(("name", "text", "tasks"), FILES)
def test_files_as_others_write_them(
    name: str, text: str, tasks: list[tuple[str, str, tuple[str, ...]]], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    assert [(task.question, task.answer, task.aliases) for task in load_tasks(tmp_path / name)] == tasks


def test_a_file_with_semicolons_says_which_columns_there_are(tmp_path: Path) -> None:
    (tmp_path / "semi.csv").write_text("question;answer\nWho?;Me\n")
    with pytest.raises(ValueError, match=r"the columns are 'question;answer': give question and answer"):
        load_tasks(tmp_path / "semi.csv")
