"""The viewer: an index that agrees with its trajectories, a server for this machine only, and a page in real
Chromium."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentdistill._core import (
    Action,
    Candidate,
    Observation,
    ParseFailure,
    Step,
    Trajectory,
    TrajectoryError,
    TrajectoryWriter,
    parse_action,
    read_trajectories,
)
from agentdistill.results import viewer as viewing
from agentdistill.results.viewer import VERDICTS, Filter, TrajectoryIndex, trajectory_files, viewer

# ---- the index -----------------------------------------------------------------------------------

observations = st.sampled_from(["value", "exception", "timeout", "tool_error"]).map(Observation)
failures = st.sampled_from(["empty", "no_action", "repetition"]).map(lambda kind: ParseFailure(kind, "no"))
texts = st.text(max_size=40) | st.sampled_from(
    ['"outcome":"x"', '],"outcome":"', ',"messages":[', '"kind":"timeout"', "\0", "\\"]
)
candidates = st.builds(
    Candidate, texts, action=st.none() | failures | st.builds(Action, texts), observation=observations
)
trajectories = st.builds(
    Trajectory,
    texts,
    texts,
    reference=st.none() | texts,
    task_set=st.sampled_from(["a", "b_c", '"']),
    messages=st.lists(st.tuples(texts, texts), max_size=2),
    steps=st.lists(st.builds(Step, st.lists(candidates, min_size=1, max_size=3), message=texts), max_size=3),
    outcome=st.sampled_from(["final_answer", "out_of_steps", "parse_failure"]),
    answer=st.none() | texts,
    score=st.sampled_from([None, 0.0, 0.5, 1.0]),
    error=st.none() | texts,
    sampling=st.dictionaries(texts, texts, max_size=2),
)


def kinds(trajectory: Trajectory) -> set[str]:
    found = {trajectory.outcome} - {"final_answer"}
    for candidate in (candidate for step in trajectory.steps for candidate in step.candidates):
        found |= {candidate.action.kind} if isinstance(candidate.action, ParseFailure) else set()
        found |= {candidate.observation.kind} - {"value"} if candidate.observation else set()
    return found


def verdict(trajectory: Trajectory) -> str:
    if trajectory.score == 1:
        return "right"
    if trajectory.outcome != "final_answer":
        return "failed"
    return "ungraded" if trajectory.score is None else "wrong"


@settings(max_examples=30)
@given(written=st.lists(trajectories, max_size=6), in_order=st.booleans(), text=texts)
def test_the_index_agrees_with_the_trajectories(
    tmp_path_factory: pytest.TempPathFactory, written: list[Trajectory], in_order: bool, text: str
) -> None:
    path = tmp_path_factory.mktemp("index") / "t.jsonl"
    lines = [t.to_json() if in_order else json.dumps(json.loads(t.to_json()), sort_keys=True) for t in written]
    header = '{"agentdistill":"trajectories","version":1,"run":{}}'
    path.write_text("\n".join([header, *lines, '{"torn'])[: None if written else len(header) + 1], newline="")
    index = TrajectoryIndex([path])
    index.fill()
    assert (len(index), index.done, index.damaged) == (len(written), True, [])
    for number, trajectory in enumerate(written):
        shown = index.row(number)
        assert Trajectory.from_json(index.line(number).decode()) == trajectory
        assert shown["question"] == trajectory.question.replace("\0", " ")
        assert (shown["task_set"], shown["steps"]) == (trajectory.task_set, len(trajectory.steps))
        assert shown["verdict"] == verdict(trajectory)

    def numbers(chosen: Filter, where: Callable[[Trajectory], bool]) -> None:
        assert list(index.choose(chosen, len(index))) == [i for i, t in enumerate(written) if where(t)], chosen

    numbers(Filter(), lambda t: True)
    for one in VERDICTS:
        numbers(Filter(verdict=one), lambda t, one=one: verdict(t) == one)
    for kind in ("timeout", "no_action", "out_of_steps"):
        numbers(Filter(kind=kind), lambda t, kind=kind: kind in kinds(t))
    numbers(Filter(task_set="b_c", verdict="right"), lambda t: t.task_set == "b_c" and t.score == 1)
    if text and "\0" not in text:
        said = [[t.question, t.answer or "", t.reference or "", t.task_id] for t in written]
        assert list(index.choose(Filter(text=text), len(index))) == [
            i for i, parts in enumerate(said) if any(text.lower() in part.replace("\0", " ").lower() for part in parts)
        ]
    index.close()


def test_search_in_all_of_a_trajectory(tmp_path: Path) -> None:
    step = Step([Candidate('Thought: Größe "zwei"\nCode:')], message="Observation:\nTulbon")
    path = tmp_path / "t.jsonl"
    path.write_text(Trajectory("1", "?", steps=[step]).to_json() + "\n")
    index = TrajectoryIndex([path])
    index.fill()
    for text, found in (("tulbon", 1), ('größe "Zwei"', 1), ("Observation:\nTul", 1), ("tulbon!", 0)):
        assert len(index.choose(Filter(text=text, everywhere=True), 1)) == found, text
        assert len(index.choose(Filter(text=text), 1)) == 0
    index.close()


def test_damaged_lines_are_named_and_other_files_refused(tmp_path: Path) -> None:
    good = Trajectory("1", "?", answer="yes").to_json()
    bad = ["nonsense", good[:-1], good.replace('"?"', "[]"), good.replace('"yes"', "5"), '{"a": 1}']
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join([good, *bad, "", good, good[:50]]))
    index = TrajectoryIndex([path])
    index.fill()
    assert (len(index), index.damaged) == (2, [f"t.jsonl:{number}" for number in range(2, 7)])
    index.close()
    (tmp_path / "tasks.jsonl").write_text('{"question": "?", "answer": "1"}\n')
    with pytest.raises(TrajectoryError, match=r"tasks\.jsonl:1: "):
        TrajectoryIndex([tmp_path / "tasks.jsonl"])


def test_a_folder_stands_for_the_trajectories_in_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no trajectories\.jsonl"):
        trajectory_files(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with TrajectoryWriter(tmp_path / name / "trajectories.jsonl", "{}") as writer:
            writer.append([Trajectory("1", name)])
    index = TrajectoryIndex(trajectory_files(tmp_path))
    index.fill()
    assert index.counts["file"] == {"a": 1, "b": 1}
    assert [index.row(i)["question"] for i in index.choose(Filter(file="b"), 2)] == ["b"]
    index.close()


# ---- the server ----------------------------------------------------------------------------------

HOSTILE = "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>"


def code(thought: str, text: str) -> str:
    return f"Thought: {thought}\nCode:\n```py\n{text}\n```<end_code>"


def candidate(thought: str, text: str, observation: Observation | None) -> Candidate:
    written = code(thought, text)
    return Candidate(written, action=parse_action(written), observation=observation)


@pytest.fixture(scope="module")
def some_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three thousand trajectories: one with self-consistent actions, a hostile one, and many small ones."""
    from agentdistill import Bm25Index, Sandbox

    folder = tmp_path_factory.mktemp("viewer")
    index = Bm25Index.build([("1", "Walnut", "A walnut is a nut."), ("2", "Nut", HOSTILE)], folder / "index")
    sandbox = Sandbox(tools={"web_search": index})
    cells = ["print(web_search('walnut nut'))", "1/0", "print('nothing')", "print(web_search('walnut nut'))"]
    ran = [sandbox.run(sandbox.initial, cell)[0] for cell in cells]
    first = Step(
        [candidate("I search.", cell, seen) for cell, seen in zip(cells, ran, strict=True)],
        votes=[("walnut passages", 2), ("nothing", 1)],
        message="Observation:\n...",
    )
    last = Step([candidate("I know.", "final_answer('nut')", Observation("final_answer", final_answer="nut"))])
    failure = Step(
        [Candidate(HOSTILE, reasoning=HOSTILE, action=ParseFailure("no_action", "write code"))], message=HOSTILE
    )
    known = {"reference": "nut", "model": "m", "task_set": "nuts"}
    made = [
        Trajectory("voted", "What is a walnut?", steps=[first, last], answer="nut", score=1.0, **known),
        Trajectory("hostile", HOSTILE, steps=[failure], outcome="out_of_steps", score=0.0, error=HOSTILE, **known),
    ]
    made += [Trajectory(f"t{i}", f"Question {i}", answer=str(i), reference="0", score=0.0) for i in range(3000)]
    path = folder / "t.jsonl"
    with TrajectoryWriter(path, "{}") as writer:
        writer.append(made)
    return path


@pytest.fixture(scope="module")
def url(some_file: Path) -> Iterator[str]:
    with viewer([some_file], learnt=lambda t: [(f"{t.question}\n", None), ("I search.", "thought")]) as url:
        yield url


def get(url: str, path: str, host: str | None = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    return connection.getresponse()


NAMES = [
    ("localhost:80", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("evil.example", 403), ("127.0.0.1.x.example", 403),
    ("localhost.evil.example:8000", 403), ("evil.example@127.0.0.1", 403), ("", 403), ("[", 403),
]  # fmt: skip


@pytest.mark.parametrize(("host", "status"), NAMES)
def test_only_requests_to_itself_are_answered(url: str, host: str, status: int) -> None:
    assert urlsplit(url).hostname == "127.0.0.1"
    for path in ("/", "/state", "/trajectory/0"):
        answer = get(url, path, host)
        assert answer.status == status
        assert status == 200 or b"walnut" not in answer.read()


def test_every_answer_forbids_what_the_page_does_not_need(url: str) -> None:
    for path in ("/", "/state", "/list", "/trajectory/0", "/missing"):
        headers = get(url, path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert (headers["X-Content-Type-Options"], headers["Cross-Origin-Resource-Policy"]) == (
            "nosniff",
            "same-origin",
        )
        assert headers["Access-Control-Allow-Origin"] is None
    page = get(url, "/").read().decode()
    assert "unsafe" not in get(url, "/").headers["Content-Security-Policy"]
    assert "http" not in page and "innerHTML" not in page and "NONCE" not in page


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/list?verdict=mad", 400), ("/list?start=x", 400), ("/list?nonsense=1", 400), ("/trajectory/99999", 400),
        ("/trajectory/x", 400), ("/learnt/99999", 400), ("/../etc/passwd", 404), ("/list?kind=unheard_of", 200),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said_so(url: str, path: str, status: int) -> None:
    assert get(url, path).status == status


def test_a_trajectory_comes_as_it_was_written(url: str, some_file: Path) -> None:
    while not json.load(get(url, "/state"))["done"]:
        pass
    written = read_trajectories(some_file)
    found = json.load(get(url, "/list?verdict=wrong&start=2990&count=50"))
    assert (found["total"], [row["task_id"] for row in found["rows"]]) == (3000, [f"t{i}" for i in range(2990, 3000)])
    for row in found["rows"][:3]:
        line = get(url, f"/trajectory/{row['number']}").read().decode()
        assert Trajectory.from_json(line) == written[row["number"]]


def test_the_command_serves_until_it_is_ended(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(Trajectory("1", "1 + 1?").to_json() + "\n")
    command = [sys.executable, "-m", "agentdistill", "view", "t.jsonl", "--no-browser"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().split(" at ")[1].split()[0]
        assert get(url, "/learnt/0").status == 404
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130


# ---- the page ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs agentdistill[dev]")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,800"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's own does not run as root
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as chromium:
        yield chromium


class Page:
    """The viewer as displayed in a browser."""

    def __init__(self, chromium: Any, url: str, *, width: int = 1200, dark: bool = False) -> None:
        self.chromium = chromium
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        chromium.get("about:blank")
        chromium.get(url)
        self.wait(lambda: "3,002 trajectories" in self.text("#status") and self.rows())

    def wait(self, condition: Callable[[], Any]) -> Any:
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        waiting = WebDriverWait(self.chromium, 30, 0.02, [StaleElementReferenceException])
        return waiting.until(lambda _: condition())

    def all(self, selector: str) -> list[Any]:
        found: list[Any] = self.chromium.find_elements("css selector", selector)
        return found

    def text(self, selector: str) -> str:
        return "\n".join(element.text for element in self.all(selector))

    def rows(self) -> list[str]:
        return [row.text for row in self.all(".row")]

    def press(self, *keys: str) -> None:
        for key in keys:
            self.chromium.switch_to.active_element.send_keys(key)

    def is_open(self, question: str) -> None:
        self.wait(lambda: self.text("h1") == question)

    def width_of(self, selector: str) -> int:
        return self.all(selector)[0].size["width"] if self.all(selector)[0].is_displayed() else 0


def test_reading_step_by_step(chromium: Any, url: str) -> None:
    from selenium.webdriver.common.keys import Keys

    page = Page(chromium, url)
    page.is_open("What is a walnut?")
    assert [button.text for button in page.all(".candidates button")] == ["★", "2", "3", "4"]
    assert [button.get_attribute("class") for button in page.all(".candidates button")] == [
        "same",
        "failed",
        "",
        "same",
    ]
    assert "Votes: 2 of 4 candidates" in page.text(".step") and "walnut passages" in page.text(".vote")
    page.all(".step summary")[0].click()
    assert [title.text for title in page.all(".passage b")] == ["[1] Walnut", "[2] Nut"]
    page.all(".candidates button")[1].click()
    assert "not taken" in page.text(".step header") and "ZeroDivisionError" in page.text(".seen")
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert "Step 2" in page.text(".step.current")
    page.press("m")
    assert page.wait(lambda: page.text(".learnt mark")) == "I search."
    page.press("m")
    assert not page.all(".learnt") and page.text(".step.current")


def test_what_a_trajectory_says_stays_text(chromium: Any, url: str) -> None:
    from selenium.common.exceptions import JavascriptException

    page = Page(chromium, url)
    page.press("j")
    page.is_open(HOSTILE)
    page.press("m")
    page.wait(lambda: page.all(".learnt"))
    assert not page.all("img") and len(page.all("script")) == 1 and chromium.title != "owned"
    assert "failed" in page.all(".row")[1].get_attribute("innerHTML") and "out of steps" in page.text(".answers")
    with pytest.raises(JavascriptException, match="TrustedHTML"):
        chromium.execute_script("document.body.innerHTML = arguments[0]", HOSTILE)
    complaints = [entry["message"] for entry in chromium.get_log("browser")]
    assert all("TrustedHTML" in complaint for complaint in complaints), complaints


def test_searching_and_choosing(chromium: Any, url: str) -> None:
    from selenium.webdriver.common.keys import Keys

    page = Page(chromium, url)
    page.press("/", "QUESTION 2999")
    page.wait(lambda: page.text("#status") == "1 of 3,002" and "Question 2999" in page.text(".row"))
    page.press(Keys.ENTER)
    page.is_open("Question 2999")
    page.press(Keys.ESCAPE)
    page.wait(lambda: page.text("#status") == "3,002 trajectories")
    page.press("/", "zerodivision")
    page.wait(lambda: page.text("#status") == "0 of 3,002")
    page.all("#everywhere")[0].click()
    page.wait(lambda: page.text("#status") == "1 of 3,002")
    page.press(Keys.ESCAPE)
    page.all("[data-verdict=failed]")[0].click()
    page.wait(lambda: page.text("#status") == "1 of 3,002" and len(page.rows()) == 1)
    page.press(Keys.ESCAPE)
    page.all("#kind option[value=exception]")[0].click()
    page.wait(lambda: page.text("#status") == "1 of 3,002" and "walnut" in page.text(".row"))


def test_a_long_list_holds_only_what_one_sees(chromium: Any, url: str) -> None:
    from selenium.webdriver.common.keys import Keys

    page = Page(chromium, url)
    page.press(Keys.END)
    page.is_open("Question 2999")
    assert page.wait(lambda: "Question 2999" in page.rows()[-1]) and len(page.rows()) < 20
    page.press("k", "k")
    page.is_open("Question 2997")
    chromium.refresh()  # the address contains the open trajectory
    page.is_open("Question 2997")
    page.wait(lambda: page.all(".row[aria-selected=true]"))


def test_dark_and_narrow(chromium: Any, url: str) -> None:
    from selenium.webdriver.common.keys import Keys

    def shade() -> int:
        colour = page.all("body")[0].value_of_css_property("background-color")
        return sum(int(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3])

    page = Page(chromium, url)
    light = shade()
    assert page.width_of("#side") > 0 and page.width_of("#reader") > 0
    page = Page(chromium, url, width=390, dark=True)
    assert shade() < 150 < 600 < light
    assert (page.width_of("#side"), page.width_of("#reader")) == (390, 0)
    page.all(".row")[0].click()
    page.is_open("What is a walnut?")
    assert (page.width_of("#side"), page.width_of("#reader")) == (0, 390)
    assert chromium.execute_script("let r = document.getElementById('reader'); return r.scrollWidth <= r.clientWidth")
    page.press(Keys.ESCAPE)
    assert (page.width_of("#side"), page.width_of("#reader")) == (390, 0)


# ---- connections -----------------------------------------------------------------------------------


def connected(url: str, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection((urlsplit(url).hostname, urlsplit(url).port))
    client.settimeout(60)
    client.sendall(sent)
    return client


def ended(client: socket.socket) -> bool:
    try:
        while client.recv(65536):
            pass
    except ConnectionResetError:
        pass
    client.close()
    return True


@pytest.mark.parametrize(
    "sent", [b"", b"GET", b"GET / HTTP/1.1\r\nX: ", b"GET /state HTTP/1.1\r\nHost: localhost\r\n\r\nGE"]
)
def test_connections_that_ask_for_nothing_end(sent: bytes, some_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewing, "HEAD_SECONDS", 0.2)
    with viewer([some_file]) as url:
        assert ended(connected(url, sent))


def test_a_request_that_drips_ends(some_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewing, "HEAD_SECONDS", 0.3)
    with viewer([some_file]) as url:
        client = connected(url, b"GET / HTTP/1.1\r\nX: ")
        with pytest.raises(OSError):
            while True:
                client.sendall(b"a")
                time.sleep(0.01)
        client.close()


def test_idle_connections_make_room(some_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewing, "MAX_CONNECTIONS", 8)
    with viewer([some_file]) as url:
        before = threading.active_count()
        idle = [connected(url, b"GET / HT") for _ in range(100)]
        assert get(url, "/state").status == 200
        assert threading.active_count() - before <= 9
        for client in idle:
            client.close()


@pytest.mark.parametrize("host", ["x{y.evil.com", "evil.com", "127.0.0.1@evil.com", "localhost.evil.com", "[::1", ""])
def test_other_hosts_are_refused(host: str, some_file: Path) -> None:
    with viewer([some_file]) as url:
        client = connected(url, f"GET /state HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert client.recv(100).split()[1] == b"403"
        client.close()
