#!/usr/bin/env python3
"""A small MCP server on stdin and stdout, for tests: it does as its tools' names say.

Usage: mcp_server.py FOLDER [MODE]
It appends `start PID` to FOLDER/starts, and a line for each call to FOLDER/calls. With the mode
`crash` it ends before it answers anything; with `mute` it never answers; with `deaf` it reads nothing
more when it has listed its tools; with `reversed` it lists them in the other order; with `http` it
serves HTTP instead, on a free port that it notes in FOLDER/port, and notes each request's x-token in
FOLDER/tokens.
"""

import http.server
import json
import os
import signal
import sys
import threading
import time

FOLDER = sys.argv[1]
MODE = sys.argv[2] if len(sys.argv) > 2 else ""

writing = threading.Lock()
local = threading.local()  # over HTTP: where the answer to this thread's request goes
answers = {}  # what the other side answers to our own requests, by id
cancelled = {}  # calls that somebody may cancel, by id
extra = []  # tools that were added later


def note(name, line):
    with open(os.path.join(FOLDER, name), "a", encoding="utf-8") as file:
        file.write(line + "\n")


def count(name):
    with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
        return len(file.readlines())


def send(**message):
    text = json.dumps({"jsonrpc": "2.0", **message})
    stream = getattr(local, "stream", None)
    if stream is not None:
        stream.write(f"data: {text}\n\n".encode())
        stream.flush()
        return
    with writing:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def text(words):
    return {"content": [{"type": "text", "text": words}]}


def ask(method, params):
    """A request to the other side; gives the whole answer."""
    number = f"ask-{time.monotonic_ns()}"
    answers[number] = threading.Event()
    send(id=number, method=method, params=params)
    answers[number].wait(30)
    return answers[number].answer


def progress(call, done, total, message=None):
    params = {"progressToken": call["_meta"]["progressToken"], "progress": done, "total": total}
    if message:
        params["message"] = message
    send(method="notifications/progress", params=params)


def die(call):
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def die_first(call):
    if count("calls") == 1:
        die(call)
    return text("survived")


def slow(call):
    steps, pause = call["arguments"]["steps"], call["arguments"]["pause"]
    for step in range(steps):
        time.sleep(pause)
        progress(call, step + 1, steps, "working" if step == 0 else None)
    return text("worked")


def wait(call):
    """Waits until somebody cancels; tells that it has begun."""
    progress(call, 0, 1, "waiting")
    cancelled[call["id"]].wait(60)
    return text("never heard")


def grow(call):
    extra.append("grown")
    for _ in range(4):
        send(method="notifications/tools/list_changed")
    return text("grown")


def show(call):
    return {
        "content": [
            {"type": "text", "text": "look:"},
            {"type": "image", "data": "AQIDBA==", "mimeType": "image/png"},
        ],
        "structuredContent": {"width": 2},
    }


def flood(call):
    """Says a lot, on both sides."""
    for number in range(2000):
        print(f"line {number}", file=sys.stderr)
    return text("x" * call["arguments"]["bytes"])


TOOLS = {
    "echo": ({"readOnlyHint": True}, lambda call: text(call["arguments"].get("text", ""))),
    "meta": ({"readOnlyHint": True}, lambda call: text(json.dumps(call["_meta"], sort_keys=True))),
    "pid": ({"readOnlyHint": True}, lambda call: text(str(os.getpid()))),
    "die": ({}, die),
    "die pure": ({"readOnlyHint": True}, die_first),
    "die idempotent": ({"idempotentHint": True, "destructiveHint": False}, die_first),
    "die once": ({}, die_first),
    "slow": ({"readOnlyHint": True}, slow),
    "wait": ({}, wait),
    "grow": ({}, grow),
    "show": ({"readOnlyHint": True}, show),
    "flood": ({"readOnlyHint": True}, flood),
    "fail": ({}, lambda call: {**text("no such thing"), "isError": True}),
    "elicit": ({}, lambda call: text(json.dumps(ask("elicitation/create", {
        "message": "Which?", "requestedSchema": {"type": "object", "properties": {}},
    })))),
    "sample": ({}, lambda call: text(json.dumps(ask("sampling/createMessage", {
        "messages": [], "maxTokens": 1,
    })))),
    "roots": ({}, lambda call: text(json.dumps(ask("roots/list", {})))),
    "grown": ({"readOnlyHint": True}, lambda call: text("I am new")),
}


def listed():
    names = [name for name in TOOLS if name != "grown"] + extra
    return [
        {
            "name": name,
            "description": f"The tool {name}.",
            "inputSchema": {"type": "object"},
            "annotations": TOOLS[name][0],
        }
        for name in names
    ]


def work(number, params):
    params = {"_meta": {}, "arguments": {}, **params, "id": number}
    note("calls", params["name"])
    send(id=number, result=TOOLS[params["name"]][1](params))


def take(message):
    method, number, params = message.get("method"), message.get("id"), message.get("params", {})
    if method == "initialize":
        send(id=number, result={
            "protocolVersion": params["protocolVersion"] if params["protocolVersion"] < "2026" else "2025-11-25",
            "capabilities": {"tools": {"listChanged": True}},
            "serverInfo": {"name": "test", "version": "1"},
        })
    elif method == "tools/list":
        note("lists", "list")
        order = -1 if MODE == "reversed" else 1
        send(id=number, result={"tools": listed()[::order]})
        if MODE == "deaf":
            time.sleep(600)
    elif method == "tools/call":
        cancelled[number] = threading.Event()
        if MODE == "http":
            work(number, params)
        else:
            threading.Thread(target=work, args=(number, params), daemon=True).start()
    elif method == "notifications/cancelled":
        note("cancelled", params.get("reason", ""))
        cancelled[params["requestId"]].set()
    elif method is None and number in answers:
        answers[number].answer = message.get("result") or message.get("error")
        answers[number].set()


class Web(http.server.BaseHTTPRequestHandler):
    """Answers each request with a stream of its own."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        note("tokens", self.headers.get("x-token", ""))
        session = str(os.getpid())
        if message.get("method") != "initialize" and self.headers.get("mcp-session-id") != session:
            self.refuse()
            return
        if "id" not in message or "method" not in message:
            take(message)
            self.send_response(202)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.send_header("mcp-session-id", session)
        self.end_headers()
        local.stream = self.wfile
        take(message)
        self.close_connection = True

    def refuse(self):
        error = {"code": -32000, "message": "Bad Request: No valid session ID provided"}
        body = json.dumps({"jsonrpc": "2.0", "error": error, "id": None}).encode()
        self.send_response(400)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_DELETE(self):
        self.do_GET()

    def do_GET(self):
        self.send_response(405)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def serve_web():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[3]) if len(sys.argv) > 3 else 0), Web)
    note("port", str(server.server_address[1]))
    server.serve_forever()


def main():
    note("starts", f"start {os.getpid()}")
    witness = os.path.join(FOLDER, "witness")
    if os.path.exists(witness):
        held = open(witness, "w", encoding="utf-8")
        held.write("started\n")
        held.flush()
        globals()["held"] = held
    print("ready to serve", file=sys.stderr, flush=True)
    if MODE == "crash":
        print("no way", file=sys.stderr, flush=True)
        sys.exit(3)
    if MODE == "mute":
        time.sleep(600)
    if MODE == "http":
        serve_web()
    print("this line is no message", flush=True)
    for line in sys.stdin:
        take(json.loads(line))


main()
