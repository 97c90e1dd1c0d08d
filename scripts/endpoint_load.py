"""Loads the endpoint engine with a server on loopback that answers at once, and measures this program: processor time, requests a second, memory.

usage: python scripts/endpoint_load.py PROGRAM WORK_DIR [--runs N] [--connections N] [--write]

SWALLOW_EVAL_DATA names the data: JMMLU is asked (3,539 requests with five shots). The server is a process of its own that writes one answer
ready made for every request (asyncio, with uvloop where it is installed); what it alone can take is measured first, by a client of plain sockets, so
that a reader sees whether it was the bottleneck. Processor time of asking is that of the whole `run` less that of `--dry-run` (prompts) and of
`score` (answers to numbers), each the least of N; requests a second are those of the run's own clock (`timing` in run.json). `--write` adds
the table to endpoint_load.txt beside this file.
"""

import argparse
import asyncio
import json
import os
import pathlib
import resource
import socket
import subprocess
import sys
import threading
import time

import comparison

GOALS = {"cpu_ms": 0.1, "rate": 5000, "memory_mb": 200}
BODY = json.dumps({
    "id": "cmpl-0", "object": "text_completion", "model": "fast",
    "choices": [{"index": 0, "text": "A", "finish_reason": "stop", "logprobs": None}],
    "usage": {"prompt_tokens": 600, "completion_tokens": 2, "total_tokens": 602},
}).encode()
MODELS = json.dumps({"object": "list", "data": [{"id": "fast", "object": "model", "owned_by": "load"}]}).encode()


def reply(body):
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


ANSWER, LISTED = reply(BODY), reply(MODELS)


class Fast(asyncio.Protocol):
    """Finds the end of each request by its content-length and answers."""

    def connection_made(self, transport):
        self.transport, self.seen = transport, b""

    def data_received(self, data):
        self.seen += data
        while True:
            end = self.seen.find(b"\r\n\r\n")
            if end < 0:
                return
            at = self.seen.lower().find(b"content-length:", 0, end)
            length = int(self.seen[at + 15 : self.seen.find(b"\r\n", at)]) if at >= 0 else 0
            if len(self.seen) < end + 4 + length:
                return
            self.transport.write(LISTED if self.seen.startswith(b"GET") else ANSWER)
            self.seen = self.seen[end + 4 + length :]


async def serve(port):
    server = await asyncio.get_running_loop().create_server(Fast, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


class Server:
    """The server in a process of its own."""

    def __enter__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen([sys.executable, __file__, "--serve", str(self.port)])
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            except OSError:
                time.sleep(0.1)
        sys.exit("the server does not start")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def cpu(self):
        """Processor seconds so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def capacity(self, connections=16, each=2000):
        """Requests a second with requests of 2 KB one after the other on some connections, by threads of ours."""
        request = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2000\r\n\r\n" + b"x" * 2000

        def ask():
            with socket.create_connection(("127.0.0.1", self.port)) as connection:
                for _ in range(each):
                    connection.sendall(request)
                    left = len(ANSWER)
                    while left:
                        left -= len(connection.recv(left))

        before, began = self.cpu(), time.perf_counter()
        threads = [threading.Thread(target=ask) for _ in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        n = connections * each
        return n / (time.perf_counter() - began), 1000 * (self.cpu() - before) / n


def measured(command):
    """Processor seconds and peak memory in MB of a command."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):
        sys.exit(f"exit {process.returncode}: {command}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def best(tries):
    return min(tries, key=lambda one: one[0])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    program, work = args.program.resolve(), args.work.resolve()
    task = ["--suite", "ja", "--tasks", "jmmlu", "--model", "fast", "--offline", "--quiet"]
    asks, rates, server_cpu = [], [], []
    with Server() as server:
        over = ["--base-url", f"http://127.0.0.1:{server.port}/v1", "--max-connections", args.connections]
        capacity, alone = server.capacity()
        for i in range(args.runs):
            output, before = work / f"run{i}", server.cpu()
            subprocess.run(["rm", "-rf", output], check=True)
            asks.append(measured([program, "run", *task, *over, "--output", output]))
            [run] = (output / "runs").iterdir()
            session = json.loads((run / "run.json").read_text())["timing"]["sessions"][0]
            rates.append(session["answered"] / session["seconds"])
            server_cpu.append(1000 * (server.cpu() - before) / session["answered"])
        plans = [measured([program, "run", *task, *over, "--output", work / "none", "--dry-run"]) for _ in range(args.runs)]
    scores = [measured([program, "score", run]) for _ in range(args.runs)]
    n = session["answered"]
    asking = best(asks)[0] - best(plans)[0] - best(scores)[0]
    say = lambda cpu: f"{cpu:.2f} s, {1000 * cpu / n:.3f} ms a request"
    rows = [
        ["whole run, processor time", say(best(asks)[0]), ""],
        ["of that prompts (`--dry-run`)", say(best(plans)[0]), ""],
        ["of that scoring (`score`)", say(best(scores)[0]), ""],
        ["of that asking: HTTP, journal, progress", say(asking), f"{GOALS['cpu_ms']} ms a request"],
        ["requests a second, best and median", f"{max(rates):.0f}, {sorted(rates)[len(rates) // 2]:.0f}", f"{GOALS['rate']}"],
        ["peak memory of the whole run", f"{max(mb for _, mb in asks):.0f} MB", f"{GOALS['memory_mb']} MB"],
        ["the server, processor time a request", f"{min(server_cpu):.3f} ms", ""],
        ["the server alone, plain client of 16 connections", f"{capacity:.0f} requests/s, {alone:.3f} ms a request", ""],
    ]
    lines = comparison.head(f"python scripts/endpoint_load.py PROGRAM WORK --runs {args.runs} --connections {args.connections}", LOOP)
    lines += [f"JMMLU over one server, {n} requests, {args.connections} in flight; server and client share the machine, niceness {os.nice(0)}"]
    text = "\n".join([*lines, "", *comparison.table(["what", "measured", "goal"], rows)]) + "\n"
    print(text, end="")
    if args.write:
        comparison.keep("scripts/endpoint_load.txt", text)


try:
    import uvloop

    LOOP = f"Python {sys.version.split()[0]}, uvloop {uvloop.__version__}"
except ImportError:
    uvloop, LOOP = None, f"Python {sys.version.split()[0]}, asyncio's own loop"

if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        (uvloop or asyncio).run(serve(int(sys.argv[2])))
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        main()
