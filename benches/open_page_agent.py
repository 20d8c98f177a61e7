"""Does an agent answer more questions if it can open pages? With a real model, on HotpotQA.

    .venv/bin/python benches/open_page_agent.py ../shared/data/retrieval/hotpot_autoact300 vllm:MODEL -o RUNS

The passages are in pieces of 30 words, as in open_page.py, so that a search seldom shows all of a page. The model is
prompted with one example. Three arms: with the search alone; with ``open_page``, which the prompt describes; and with
an example that uses it. Prints accuracy (exact match), F1, episodes that open a page, sampled tokens, and the
difference to the first arm on the same questions. Repeat the command to resume.
"""

import argparse
import json
from pathlib import Path

from agentdistill import Bm25Index, RolloutConfig, Task, evaluate, open_page, read_trajectories, web_search
from agentdistill.results.comparison import compare
from open_page import pieces
from quality import read

PROMPT = """\
Answer the question in steps. In each step write `Thought:` and one to three sentences, then `Code:` and one Python \
block that
begins with ```py and ends with ```<end_code>. You then get an `Observation:` with what the code printed. Print what you
want to read. As soon as you know the answer, call final_answer(...) in the code with as few words as possible.

Functions:
{{tools}}

You may import from: {{imports}}.

Example:
Task: In which year was the director of the film Inception born?

Thought: I need to know who directed Inception.
Code:
```py
print(web_search("Inception film director"))
```<end_code>
Observation:
Inception: Inception is a 2010 science fiction film written and directed by Christopher Nolan.

Thought: Christopher Nolan directed it. Now I SECOND_STEP
```<end_code>
Observation:
Christopher Nolan: Sir Christopher Nolan (born 30 July 1970) is a British and American filmmaker.

Thought: He was born in 1970.
Code:
```py
final_answer("1970")
```<end_code>
"""
SEARCH = 'search for his year of birth.\nCode:\n```py\nprint(web_search("Christopher Nolan born"))'
OPEN = 'read his page to find his year of birth.\nCode:\n```py\nprint(open_page("Christopher Nolan"))'
ARMS = {"search": (False, SEARCH), "with open_page": (True, SEARCH), "with open_page in the example": (True, OPEN)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, help="a folder with queries.jsonl that has answers")
    parser.add_argument("model")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=100)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in (arguments.questions / "queries.jsonl").open()][: arguments.limit]
    tasks = [Task(row["_id"], row["text"], row["answer"], "hotpotqa", "fact") for row in rows]
    index = Bm25Index.build(
        pieces(read(arguments.questions)), arguments.output / "pieces", title_weight=4, overwrite=True
    )
    print("| arm | exact match | F1 | episodes that open a page | tokens | difference to the first | p |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    first = None
    for number, (arm, (opens, second_step)) in enumerate(ARMS.items()):
        tools = [web_search(index)] + [open_page(index)] * opens
        config = RolloutConfig(prompt=PROMPT.replace("SECOND_STEP", second_step), max_steps=5, max_tokens=256)
        folder = arguments.output / str(number)
        [result] = evaluate(tasks, arguments.model, tools, config, output=folder).sets
        episodes = read_trajectories(folder / "trajectories.jsonl")
        opened = sum(any("open_page(" in step.candidates[0].text for step in one.steps) for one in episodes)
        scores = {("hotpotqa", one.task_id): bool(one.score) for one in episodes}
        line = (
            f"| {arm} | {100 * result.accuracy:.1f} ({100 * result.low:.0f}-{100 * result.high:.0f}) "
            f"| {100 * (result.f1 or 0):.1f} | {opened} | {result.completion_tokens // result.n}"
        )
        if first and (change := compare(scores, first)):
            interval = f"{100 * change.low:+.0f} to {100 * change.high:+.0f}"
            line += f" | {100 * change.difference:+.1f} ({interval}) | {change.p:.2f} |"
        else:
            first, line = scores, f"{line} | | |"
        print(line, flush=True)


if __name__ == "__main__":
    main()
