"""How much of search's speed is left over HTTP, and how long a request takes.

    python benches/serve_retrieval.py INDEX

The server is a process of its own, ``agentdistill serve-retrieval``, asked over some connections at once by another;
each sends its next request when it has the answer. Requests are of 1, 16 and 256 questions of ../shared/data/retrieval,
k = 3. In process is ``search_batch`` of all of them, which goes to Python objects. Queries a second are by the clock,
with the client beside the server on the same cores; "of a core" is by the processor time of the searching process
alone.
"""

import argparse
import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from agentdistill import Bm25Index

K = 3
SECONDS = 5.0
QUESTIONS = Path(__file__).parents[2] / "shared/data/retrieval"


def ask(address: tuple[str, int], requests: list[bytes], seconds: float, results: "multiprocessing.Queue[list[float]]",
        connections: int) -> None:  # fmt: skip
    """Ask over so many connections for so long; put the seconds that each request took."""
    took: list[float] = []

    def one(number: int) -> None:
        with socket.create_connection(address) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end = time.perf_counter() + seconds
            while (start := time.perf_counter()) < end:
                connection.sendall(requests[number % len(requests)])
                answer = connection.recv(1 << 20)
                head, _, body = answer.partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200"), head
                found = re.search(rb"content-length: (\d+)", head)
                assert found
                missing = int(found[1]) - len(body)
                while missing:
                    missing -= len(connection.recv(missing))
                took.append(time.perf_counter() - start)
                number += connections

    threads = [threading.Thread(target=one, args=(number,)) for number in range(connections)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    results.put(took)


def cpu_of(process: int) -> float:
    """Processor seconds that a process has used."""
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--connections", type=int, default=8)
    arguments = parser.parse_args()
    files = sorted(QUESTIONS.glob("*/queries.jsonl"))
    questions = [json.loads(line)["text"] for file in files for line in file.open()]

    index = Bm25Index.open(arguments.index)
    index.search_batch(questions, K)
    rounds, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < SECONDS:
        index.search_batch(questions, K)
        rounds += 1
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    in_process, of_a_core = rounds * len(questions) / wall, rounds * len(questions) / cpu
    print(f"{len(index):,} passages, {arguments.connections} connections\n")
    print("| | queries/s | of in process | of a core | of in process | median | p99 |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    print(f"| in process | {in_process:,.0f} | | {of_a_core:,.0f} | | | |")

    command = [sys.executable, "-m", "agentdistill", "serve-retrieval", str(arguments.index), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    address = re.search(r"http://([\d.]+):(\d+)", server.stderr.readline())
    assert address
    try:
        for size in (1, 16, 256):
            requests = []
            for start in range(0, len(questions), size):
                batch = [questions[(start + i) % len(questions)] for i in range(size)]
                body = json.dumps({"queries": batch, "topk": K, "return_scores": True}).encode()
                head = f"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                requests.append(head.encode() + body)
            results: multiprocessing.Queue[list[float]] = multiprocessing.Queue()
            to = (address[1], int(address[2]))
            client = multiprocessing.Process(target=ask, args=(to, requests, SECONDS, results, arguments.connections))
            cpu, wall = cpu_of(server.pid), time.perf_counter()
            client.start()
            took = sorted(results.get())
            wall, cpu = time.perf_counter() - wall, cpu_of(server.pid) - cpu
            client.join()
            queries = len(took) * size
            print(
                f"| {size} a request | {queries / wall:,.0f} | {queries / wall / in_process:.0%} "
                f"| {queries / cpu:,.0f} | {queries / cpu / of_a_core:.0%} "
                f"| {1000 * took[len(took) // 2]:.2f} ms | {1000 * took[int(len(took) * 0.99)]:.2f} ms |"
            )
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
