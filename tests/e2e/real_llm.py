#!/usr/bin/env python3
"""The end-to-end check with a real LLM server: a daemon, its socket, and a model that really writes.

Usage: real_llm.py PROGRAM DIR
PROGRAM is the impresario binary; DIR is where llm-server.sh built the server and the model.

For the OpenAI-compatible and the Anthropic provider alike:
  1. Two readers follow one answer over the socket. One leaves in mid-answer and comes back with
     its cursor. Both must hold exactly the text that the log holds; tokens and cost are recorded.
  2. A tool is offered, with earlier tool calls in the history. The model is tiny: it may call the
     tool or answer in words. Either way the log must have the right shape.
  3. The daemon is killed with SIGKILL in mid-answer and started again. The turn goes on by itself,
     the reader comes back with its cursor, and nothing that it had seen is lost or changed.

Needs nothing but Python 3. Stops only the processes that it started itself.
"""

import collections
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
PATIENCE = 180  # seconds for anything that takes a second on an idle machine
PRICES = {"input": 0.5, "cached": 0.05, "output": 2.0}  # USD per million tokens
PROVIDERS = ("openai", "anthropic")
STORY = "Tell me a long story about an old theatre, its director and its ghosts."


def check(holds, what):
    if not holds:
        raise AssertionError(what)


class Client:
    """One connection: JSON-RPC 2.0, one object a line."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("r", encoding="utf-8", newline="\n")
        self.waiting = collections.deque()
        self.last = 0

    def call(self, method, **params):
        self.last += 1
        request = {"jsonrpc": "2.0", "id": self.last, "method": method, "params": params}
        self.socket.sendall((json.dumps(request) + "\n").encode())
        while True:
            frame = self.read()
            if "id" not in frame:
                self.waiting.append(frame["params"])
                continue
            check("result" in frame, f"{method} was refused: {frame.get('error')}")
            return frame["result"]

    def item(self):
        """The next item of the subscription."""
        return self.waiting.popleft() if self.waiting else self.read()["params"]

    def read(self):
        line = self.lines.readline()
        if not line:
            raise ConnectionError("the daemon closed the connection")
        return json.loads(line)

    def close(self):
        self.lines.close()
        self.socket.close()


class Reader:
    """Follows a session, and holds what it was shown. Can leave and come back."""

    def __init__(self, path, session):
        self.path, self.session = path, session
        self.cursor, self.client = None, None
        self.events, self.shown = [], collections.defaultdict(bytes)
        self.deltas, self.resets, self.late = 0, 0, 0

    def attach(self):
        self.client = Client(self.path)
        place = {"cursor": self.cursor} if self.cursor else {}
        self.client.call("session.subscribe", session=self.session, **place)

    def leave(self):
        self.client.close()

    def step(self):
        """Takes in one item, as any client has to."""
        item = self.client.item()
        if item["kind"] == "delta" and item["channel"] == "text":
            held = self.shown[item["of"]]
            check(item["offset"] == len(held), f"a gap or an overlap at {item['offset']}, held {len(held)}")
            self.shown[item["of"]] = held + item["text"].encode()
            self.deltas += 1
        elif item["kind"] == "reset":
            self.shown.pop(item["of"], None)
            self.resets += 1
        elif item["kind"] == "event":
            self.take(item["event"])
        else:
            check(item["kind"] == "delta", f"unexpected item {item}")
        self.cursor = item["cursor"]
        return item

    def take(self, event):
        check(event["seq"] == len(self.events) + 1, f"event {event['seq']} after {len(self.events)}")
        self.events.append(event)
        if event["type"] == "llm_response":
            of, content = event["data"]["of"], event["data"]["content"]
            held = self.shown[of].decode()
            check(content.startswith(held), f"shown {held!r}, recorded {content!r}")
            # Who comes after the end of an answer gets it from the event.
            self.late += held != content
            self.shown[of] = content.encode()

    def until_words(self, more):
        """Reads on until so many more deltas came; fails when the answer is over before."""
        goal = self.deltas + more
        while self.deltas < goal:
            item = self.step()
            is_over = item["kind"] == "event" and item["event"]["type"] == "turn_finished"
            check(not is_over, "the answer was over too soon to leave in the middle of it")

    def until_finished(self):
        while True:
            item = self.step()
            if item["kind"] == "event" and item["event"]["type"] == "turn_finished":
                return item["event"]["data"]

    def of_type(self, kind):
        return [event["data"] for event in self.events if event["type"] == kind]


class Daemon:
    """Our own child; `kill` is SIGKILL, `stop` is the orderly way."""

    def __init__(self, program, home):
        self.program, self.home = program, home
        self.socket = home / "data" / "control.sock"
        self.process = None

    def start(self, config):
        log = open(self.home / "daemon.log", "ab")
        command = [self.program, "serve", "--config", config, "--data", self.home / "data"]
        environment = {"HOME": str(self.home), "PATH": os.environ["PATH"]}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            check(self.process.poll() is None, f"the daemon ended with {self.process.returncode}")
            try:
                return Client(self.socket)
            except OSError:
                time.sleep(0.05)
        raise AssertionError("the daemon did not open its socket")

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        Client(self.socket).call("daemon.shutdown")
        code = self.process.wait(PATIENCE)
        check(code == 0, f"the daemon ended with {code}")

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def start_llm(directory, home):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = open(home / "llm.log", "ab")
    command = [HERE / "llm-server.sh", "run", directory, str(port)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        check(process.poll() is None, f"llama-server ended with {process.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
            return process, port
        except OSError:
            time.sleep(0.2)
    process.kill()
    raise AssertionError("llama-server did not become ready")


def write_settings(home, port, teacher):
    """With `teacher`, the agents with a tool play a script instead, to give them a history."""
    parts = ['[metrics]\nlisten = "127.0.0.1:0"\n[sessions]\nmax_steps = 6\nretry_first_ms = 100\n']
    prices = ", ".join(f"{name} = {price}" for name, price in PRICES.items())
    for provider in PROVIDERS:
        parts.append(
            f'[models.{provider}]\nprovider = "{provider}"\nmodel = "smollm2"\n'
            f'base_url = "http://127.0.0.1:{port}/v1/"\nprices = {{ {prices} }}\n'
            "temperature = 0.0\nseed = 1\nmax_tokens = 200\n"
            f'[agents.{provider}]\nmodel = "{provider}"\nsystem = "You are a storyteller."\n'
            f'[agents.{provider}-tool]\nmodel = "{"teacher" if teacher else provider}"\n'
            'system = "Use the tool calc for every sum."\ntools = ["calc"]\n'
        )
    parts.append(f'[models.teacher]\nprovider = "scripted"\nscript = "{home}/teacher.json"\n')
    path = home / ("teacher.toml" if teacher else "real.toml")
    path.write_text("".join(parts))
    return path


LESSONS = [("6 * 7", "42"), ("120 + 35", "155"), ("9 * 12", "108")]


def write_lessons(home):
    answers = []
    for expression, result in LESSONS:
        call = {"tool": "calc", "arguments": {"expression": expression}}
        answers.append({"pieces": [{"tool_calls": [call]}]})
        answers.append({"pieces": [{"text": f"{expression} is {result}."}]})
    (home / "teacher.json").write_text(json.dumps({"answers": answers}))


def teach(daemon, client):
    """Gives each session with a tool a history of tool calls."""
    sessions = {}
    for provider in PROVIDERS:
        session = client.call("session.create", agent=f"{provider}-tool")["session"]
        reader = Reader(daemon.socket, session)
        reader.attach()
        for expression, _ in LESSONS:
            client.call("session.send", session=session, content=f"What is {expression}?")
            status = reader.until_finished()["status"]
            check(status == "completed", f"a lesson was {status}")
        reader.leave()
        check(len(reader.of_type("tool_result")) == len(LESSONS), "the lessons used no tool")
        sessions[provider] = session
    return sessions


def check_money(responses):
    total = 0.0
    for response in responses:
        usage = response["usage"]
        check(usage["input"] > 0 and usage["output"] > 0, f"no tokens were counted: {usage}")
        cost = (
            (usage["input"] - usage["cached"]) * PRICES["input"]
            + usage["cached"] * PRICES["cached"]
            + usage["output"] * PRICES["output"]
        ) / 1e6
        check(abs(response["cost_usd"] - cost) < 1e-12, f"cost {response['cost_usd']}, expected {cost}")
        total += cost
    return total


def whole_log(client, session):
    events, after = [], 0
    while True:
        page = client.call("session.events", session=session, after=after, limit=500)
        events += page["events"]
        if not page["more"] or not page["events"]:
            return events
        after = events[-1]["seq"]


def two_readers(daemon, client, provider):
    session = client.call("session.create", agent=provider)["session"]
    stays, leaves = Reader(daemon.socket, session), Reader(daemon.socket, session)
    stays.attach()
    leaves.attach()
    client.call("session.send", session=session, content=STORY, key="story")
    again = client.call("session.send", session=session, content=STORY, key="story")
    check(again["duplicate"], "the same key was taken for another input")
    leaves.until_words(5)
    leaves.leave()
    stays.until_words(leaves.deltas + 10)
    leaves.attach()
    leaves.until_words(1)
    finished = [reader.until_finished() for reader in (stays, leaves)]
    check(finished[0] == finished[1], "the readers saw different ends")
    check(finished[0]["status"] == "completed", f"the turn was {finished[0]['status']}")
    check(stays.late == leaves.late == 0, "a part of the answer did not come as it was written")
    check(stays.resets == leaves.resets == 0, "an answer began again without a reason")
    log = whole_log(client, session)
    check(stays.events == leaves.events == log, "a reader holds something else than the log")
    response = stays.of_type("llm_response")[0]
    cost = check_money([response])
    check(abs(finished[0]["cost_usd"] - cost) < 1e-12, "the turn's cost is not the sum of its calls")
    speed = response["usage"]["output"] * 1000 / response["duration_ms"]
    print(
        f"  {provider}: {len(response['content'])} bytes in {stays.deltas} and {leaves.deltas} deltas, "
        f"the same for both readers and the log; {response['usage']}; {cost:.6f} USD; "
        f"first word after {response['ttft_ms']} ms; {speed:.0f} tokens/s"
    )


def with_tool(daemon, client, provider, session):
    reader = Reader(daemon.socket, session)
    reader.attach()
    known = len(whole_log(client, session))
    client.call("session.send", session=session, content="What is 31 * 12?")
    while len(reader.events) < known or not reader.of_type("turn_finished")[len(LESSONS):]:
        reader.step()
    new = reader.events[known:]
    calls = [event for event in new if event["type"] == "tool_call"]
    results = [event["data"]["of"] for event in new if event["type"] == "tool_result"]
    responses = [event["data"] for event in new if event["type"] == "llm_response"]
    check(sorted(results) == [call["seq"] for call in calls], "not every tool call has one result")
    check(responses, "the model never answered")
    asked = sum(len(response["tool_calls"]) for response in responses)
    check(len(calls) <= asked, "a tool was called that the model did not ask for")
    check_money(responses)
    check(reader.events == whole_log(client, session), "the reader holds something else than the log")
    status = new[-1]["data"]["status"]
    if not asked:
        check(status == "completed", f"the turn was {status}")
    results = [event["data"] for event in new if event["type"] == "tool_result"]
    shown = ", ".join(
        f"{call['data']['tool']} {call['data']['arguments']} -> {result['outcome']}: {result['content'][:60]}"
        for call, result in zip(calls, results)
    )
    print(f"  {provider}: {shown or 'answered in words'}; the turn was {status}")
    return bool(calls)


def killed(daemon, client, provider, config):
    session = client.call("session.create", agent=provider)["session"]
    reader = Reader(daemon.socket, session)
    reader.attach()
    client.call("session.send", session=session, content=STORY)
    reader.until_words(8)
    before = list(reader.events)
    daemon.kill()
    reader.leave()
    started = time.monotonic()
    client = daemon.start(config)
    reader.attach()
    finished = reader.until_finished()
    took = time.monotonic() - started
    check(finished["status"] == "completed", f"the turn was {finished['status']}")
    log = whole_log(client, session)
    check(log[: len(before)] == before, "an event that was seen is lost or changed")
    check(reader.events == log, "the reader holds something else than the log")
    check(reader.late == 0, "a part of the answer did not come as it was written")
    check(reader.resets == 1, f"{reader.resets} resets; the interrupted answer begins again once")
    inputs = [event for event in log if event["type"] == "user_input"]
    check(len(inputs) == 1, "the input was doubled")
    responses = reader.of_type("llm_response")
    check_money(responses)
    print(
        f"  {provider}: killed after {len(before)} events in mid-answer; went on by itself, done "
        f"{took:.1f} s after the new start; {len(log)} events, {len(responses[0]['content'])} bytes"
    )
    return client


def check_metrics(client):
    address = client.call("daemon.status")["metrics"]
    page = urllib.request.urlopen(address, timeout=10).read().decode()
    for provider in PROVIDERS:
        counted = [
            line for line in page.splitlines()
            if line.startswith("impresario_model_tokens_total") and f'"{provider}"' in line
        ]
        check(counted, f"no tokens of {provider} in the metrics")


def play(program, directory, home, started):
    server, port = start_llm(directory, home)
    started.append(server)
    write_lessons(home)
    lessons, real = write_settings(home, port, True), write_settings(home, port, False)
    daemon = Daemon(program, home)
    started.append(daemon)
    sessions = teach(daemon, daemon.start(lessons))
    daemon.stop()
    client = daemon.start(real)
    print("two readers, one leaves in mid-answer and comes back:")
    for provider in PROVIDERS:
        two_readers(daemon, client, provider)
    print("a tool is offered:")
    called = [with_tool(daemon, client, provider, sessions[provider]) for provider in PROVIDERS]
    if not any(called):
        print("  note: the model used no tool this time; the shape was checked all the same")
    check_metrics(client)
    print("kill -9 in mid-answer:")
    for provider in PROVIDERS:
        client = killed(daemon, client, provider, real)
    daemon.stop()


def main():
    program, directory = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
    started = []
    with tempfile.TemporaryDirectory(prefix="imp-e2e-") as folder:
        home = pathlib.Path(folder)
        try:
            play(program, directory, home, started)
        except BaseException:
            for name in ("daemon.log", "llm.log"):
                if (home / name).exists():
                    tail = (home / name).read_text(errors="replace").splitlines()[-40:]
                    print(f"--- end of {name}", *tail, sep="\n", file=sys.stderr)
            raise
        finally:
            for child in reversed(started):
                if isinstance(child, Daemon):
                    child.end()
                elif child.poll() is None:
                    child.terminate()
                    child.wait()
    print("the real LLM check passed")


if __name__ == "__main__":
    main()
