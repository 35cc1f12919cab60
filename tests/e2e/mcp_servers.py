#!/usr/bin/env python3
"""The end-to-end check with real MCP servers: a daemon, a scripted model, and servers that others wrote.

Usage: mcp_servers.py PROGRAM DIR
PROGRAM is the impresario binary; DIR is where mcp-servers.sh put the servers.

  1. No server runs before it is needed. Every tool that server-everything offers is called, over
     stdio and over HTTP: progress comes as output, images and resources are kept, structured content
     is there, a question to a person is declined, sampling is not offered.
  2. The servers filesystem (below Landlock), memory, git and time do their work; the kernel keeps
     the first from what it may not see.
  3. Each server is killed with SIGKILL in the middle of a call. What may run again does, and gives
     its answer; what may not is told as unknown and not run again; the next call works.
  4. The daemon is killed with SIGKILL: no server outlives it.

Needs Python 3, Node.js and git. Stops only the processes that it started itself.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # nothing is made beside the sources

from real_llm import Daemon, Reader, check

PATIENCE = 120  # seconds for anything that takes a second on an idle machine
ECHOES = 200
LONG = {"duration": 2, "steps": 4}
# Sandboxed: what node needs to read besides the system's own files is where it and its server are.
SERVERS = ("everything", "web", "files", "memory", "git", "clock")


class Stage:
    def __init__(self, program, directory, home):
        self.home, self.directory = home, directory
        self.daemon = Daemon(program, home)
        self.folder = home / "folder"
        self.folder.mkdir()
        (self.folder / "hello.txt").write_text("the show must go on")
        self.locked = home / "locked"
        self.locked.mkdir()
        self.secret = self.locked / "secret.txt"
        self.secret.write_text("nobody reads this")
        self.repository = home / "repository"
        self.web, self.port = None, free_port()
        self.script, self.client = [], None

    def module(self, name):
        return self.directory / f"node_modules/@modelcontextprotocol/server-{name}/dist/index.js"

    def commands(self):
        """Each server's program, and words of the process that is the server itself."""
        binaries = self.directory / "venv/bin"
        return {
            "everything": ["node", self.module("everything"), "stdio"],
            # It would serve both folders; the sandbox leaves it one of them.
            "files": ["node", self.module("filesystem"), self.folder, self.locked],
            "memory": ["node", self.module("memory")],
            "git": [binaries / "mcp-server-git"],
            "clock": [binaries / "mcp-server-time", "--local-timezone=UTC"],
        }

    def write_settings(self):
        parts = ['[metrics]\nlisten = "127.0.0.1:0"\n[log]\nfilter = "info,impresario=debug"\n']
        for name, words in self.commands().items():
            words = ", ".join(f'"{word}"' for word in words)
            parts.append(f'[tools.{name}]\nkind = "mcp"\ncommand = [{words}]\nbackoff_first_ms = 10\n')
            if name == "memory":
                parts.append(f'set_env = {{ MEMORY_FILE_PATH = "{self.home}/memory.json" }}\n')
            if name == "files":
                node = os.path.realpath(subprocess.check_output(["which", "node"], text=True).strip())
                read = [self.directory, pathlib.Path(node).parents[1]]
                read = ", ".join(f'"{path}"' for path in read)
                parts.append(f'sandbox = "landlock"\nread = [{read}]\nwrite = ["{self.folder}"]\n')
        parts.append(
            f'[tools.web]\nkind = "mcp"\nurl = "http://127.0.0.1:{self.port}/mcp"\n'
            "allow_private = true\nbackoff_first_ms = 400\nmax_restarts = 20\n"
            f'[models.script]\nprovider = "scripted"\nscript = "{self.home}/script.json"\n'
        )
        for name in SERVERS:
            parts.append(f'[agents.{name}]\nmodel = "script"\ntools = ["{name}"]\n')
        path = self.home / "impresario.toml"
        path.write_text("".join(parts))
        return path

    def write_script(self, turns):
        """Each turn's words call these tools at once."""
        answers = []
        for words, calls in turns.items():
            calls = [{"tool": tool, "arguments": arguments} for tool, arguments in calls]
            answers.append({"when": words, "pieces": [{"tool_calls": calls}]})
            answers.append({"when": words, "pieces": [{"text": "done"}]})
        (self.home / "script.json").write_text(json.dumps({"answers": answers}))

    def start(self):
        self.client = self.daemon.start(self.write_settings())

    def start_web(self):
        log = open(self.home / "web.log", "ab")
        command = ["node", self.module("everything"), "streamableHttp"]
        environment = {"PATH": os.environ["PATH"], "PORT": str(self.port)}
        self.web = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        wait_for(lambda: listens(self.port), "server-everything does not listen")

    def end(self):
        self.daemon.end()
        if self.web and self.web.poll() is None:
            self.web.kill()
            self.web.wait()

    def turn(self, agent, words):
        """One turn in a session of its own; gives the reader that has seen it."""
        session = self.client.call("session.create", agent=agent)["session"]
        reader = Outputs(self.daemon.socket, session)
        reader.attach()
        self.client.call("session.send", session=session, content=words)
        return reader

    def results(self, reader):
        """Each call with its result, when the turn is over."""
        status = reader.until_finished()["status"]
        reader.leave()
        check(status == "completed", f"the turn was {status}")
        return calls_of(reader.events)

    def call(self, tool, **arguments):
        return self.client.call("tool.call", tool=tool, arguments=arguments)["content"]

    def tools(self, server):
        tools = self.client.call("tool.list")["tools"]
        return [tool for tool in tools if tool["name"].startswith(f"{server}__")]

    def server_of(self, name):
        """The server's own process, found below the daemon."""
        if name == "web":
            return self.web.pid
        words = [str(word) for word in self.commands()[name]]
        found = [
            pid for pid in below(self.daemon.process.pid)
            if cmdline(pid)[-len(words):] == words and "__tool-exec" not in cmdline(pid)
        ]
        check(len(found) <= 1, f"{name} runs more than once: {found}")
        return found[0] if found else None


class Outputs(Reader):
    """Also keeps what tools show while they run."""

    def __init__(self, path, session):
        super().__init__(path, session)
        self.output = {}

    def step(self):
        item = super().step()
        if item["kind"] == "delta" and item["channel"] == "tool_output":
            self.output[item["of"]] = self.output.get(item["of"], "") + item["text"]
        return item

    def until_called(self):
        while not self.of_type("tool_call"):
            self.step()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def wait_for(holds, what):
    deadline = time.monotonic() + PATIENCE
    while not holds():
        check(time.monotonic() < deadline, what)
        time.sleep(0.02)


def stat(pid):
    """State and parent of a process; nothing when it is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[1])


def cmdline(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def below(root):
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := stat(name)) and found[0] not in "ZX":
            children.setdefault(found[1], []).append(int(name))
    found = list(children.get(root, []))
    for pid in found:
        found += children.get(pid, [])
    return found


def calls_of(events):
    calls = {event["seq"]: event["data"] for event in events if event["type"] == "tool_call"}
    results = [event["data"] for event in events if event["type"] == "tool_result"]
    check(sorted(result["of"] for result in results) == sorted(calls), "not every call has one result")
    return {calls[result["of"]]["tool"]: (calls[result["of"]], result) for result in results}


# --- every tool of server-everything

ARGUMENTS = {
    "echo": {"message": "hello"},
    "get-annotated-message": {"messageType": "error", "includeImage": True},
    "get-env": {},
    "get-resource-links": {"count": 2},
    "get-resource-reference": {"resourceType": "Blob", "resourceId": 1},
    "get-structured-content": {"location": "Chicago"},
    "get-sum": {"a": 2, "b": 40},
    "get-tiny-image": {},
    "gzip-file-as-resource": {"name": "a.gz", "data": "data:text/plain,hello", "outputType": "resource"},
    "simulate-research-query": {"topic": "theatre"},
    "toggle-simulated-logging": {},
    "toggle-subscriber-updates": {},
    "trigger-elicitation-request": {},
    "trigger-long-running-operation": LONG,
}
SAYS = {
    "echo": "Echo: hello",
    "get-sum": "42",
    "get-structured-content": '"conditions"',
    "get-env": "PATH",
    "trigger-elicitation-request": '"action": "decline"',
    "trigger-long-running-operation": "Steps: 4",
    "simulate-research-query": "requires task",
}
KEPT = {
    "get-tiny-image": ["image"],
    "get-annotated-message": ["image"],
    "get-resource-links": ["link", "link"],
    "get-resource-reference": ["resource"],
    "gzip-file-as-resource": ["resource"],
}


def everything(stage, server):
    reader = stage.turn(server, f"all of {server}")
    results = stage.results(reader)
    offered = {tool["name"].split("__")[1] for tool in stage.tools(server)}
    check(offered == set(ARGUMENTS), f"{server} offers {sorted(offered ^ set(ARGUMENTS))} more or less")
    check("trigger-sampling-request" not in offered, "sampling is offered")
    for own, arguments in ARGUMENTS.items():
        call, result = results[f"{server}__{own}"]
        expected = "error" if own == "simulate-research-query" else "ok"
        check(result["outcome"] == expected, f"{own}: {result}")
        check(SAYS.get(own, "") in result["content"], f"{own}: {result['content']}")
        kinds = [kept["kind"] for kept in result.get("attachments", [])]
        check(kinds == KEPT.get(own, []), f"{own} came with {kinds}")
    image = results[f"{server}__get-tiny-image"][1]["attachments"][0]
    check(image["mime"] == "image/png" and image["data"].startswith("iVBOR"), "that is no PNG")
    check(f"[image image/png, {image['bytes']} bytes]" in results[f"{server}__get-tiny-image"][1]["content"], "no place")
    of = results[f"{server}__trigger-long-running-operation"][1]["of"]
    steps = reader.output.get(of, "").splitlines()
    check(steps == ["1/4", "2/4", "3/4", "4/4"], f"progress was {steps}")
    if server == "everything":
        seen = json.loads(results[f"{server}__get-env"][1]["content"])
        check(seen["HOME"] != str(stage.home), "it sees the daemon's environment")
    began = time.monotonic()
    for number in range(ECHOES):
        check(stage.call(f"{server}__echo", message=str(number)) == f"Echo: {number}", "no echo")
    each = (time.monotonic() - began) * 1000 / ECHOES
    print(
        f"  {server}: {len(ARGUMENTS)} tools called at once, progress {steps}, image of {image['bytes']} "
        f"bytes kept, question declined, sampling not offered; {ECHOES} echoes, {each:.1f} ms each"
    )


# --- the others

def files(stage):
    call = stage.call
    listed = call("files__list_directory", path=str(stage.folder))
    check("hello.txt" in listed, listed)
    check("must go on" in call("files__read_text_file", path=f"{stage.folder}/hello.txt"), "not read")
    call("files__write_file", path=f"{stage.folder}/new.txt", content="written")
    check((stage.folder / "new.txt").read_text() == "written", "not written")
    outside = stage.results(stage.turn("files", "read the secret"))["files__read_text_file"][1]
    check(outside["outcome"] == "error" and "EACCES" in outside["content"], f"outside: {outside}")
    check(outside["sandbox"] == "landlock", f"the sandbox was {outside['sandbox']}")
    tools = len(stage.tools("files"))
    print(f"  files: {tools} tools; read, written, listed in its folder; outside: {outside['content'][:60]}")


def memory(stage):
    person = {"name": "Ann", "entityType": "person", "observations": ["directs"]}
    stage.call("memory__create_entities", entities=[person])
    found = json.loads(stage.call("memory__search_nodes", query="directs"))
    check([node["name"] for node in found["entities"]] == ["Ann"], f"found {found}")
    print(f"  memory: {len(stage.tools('memory'))} tools; one person remembered and found")


def git(stage):
    at = str(stage.repository)
    (stage.repository / "b.txt").write_text("b")
    check("b.txt" in stage.call("git__git_status", repo_path=at), "no status")
    stage.call("git__git_add", repo_path=at, files=["b.txt"])
    done = stage.call("git__git_commit", repo_path=at, message="Second")
    check("Second" in stage.call("git__git_log", repo_path=at), "no log")
    print(f"  git: {len(stage.tools('git'))} tools; {done.splitlines()[0][:60]}")


def clock(stage):
    now = json.loads(stage.call("clock__get_current_time", timezone="Asia/Tokyo"))
    check(now["timezone"] == "Asia/Tokyo", f"{now}")
    print(f"  clock: {len(stage.tools('clock'))} tools; it is {now['datetime']}")


# --- killed in the middle of a call

KILLED = {
    "everything": ("everything__get-sum", {"a": 1, "b": 2}, "3"),
    "web": ("web__get-sum", {"a": 1, "b": 2}, "3"),
    "files": ("files__read_text_file", None, "must go on"),
    "memory": ("memory__read_graph", {}, "Ann"),
    "git": ("git__git_log", None, "Second"),
    "clock": ("clock__get_current_time", {"timezone": "UTC"}, "UTC"),
}


def killed(stage, server):
    tool, _, says = KILLED[server]
    result, took, pids = kill_in_call(stage, server, f"kill {server}")
    check(result["outcome"] == "ok" and says in result["content"], f"{server}: {result}")
    check(result["attempts"] >= 2, f"{server} was not run again: {result}")
    check(pids[0] != pids[1], f"{server} was not started again")
    print(f"  {server}: {tool} killed in the call, answered at run {result['attempts']}, {took:.2f} s later")


def kill_in_call(stage, server, words):
    """Gives the result of the call, how long after the kill it came, and the server before and after."""
    before = stage.server_of(server)
    check(before, f"{server} does not run")
    os.kill(before, signal.SIGSTOP)
    reader = stage.turn(server, words)
    reader.until_called()
    wait_for(lambda: stage.client.call("daemon.status")["limits"]["tool_workers"]["used"] == 1, "no call runs")
    os.kill(before, signal.SIGKILL)
    began = time.monotonic()
    if server == "web":
        stage.web.wait()
        stage.start_web()
    (_, result), = stage.results(reader).values()
    return result, time.monotonic() - began, (before, stage.server_of(server))


def killed_once(stage):
    """What may not run twice is told as unknown, and the server that comes next never hears of it."""
    result, _, _ = kill_in_call(stage, "memory", "kill memory once")
    check(result["outcome"] == "unknown" and result["attempts"] == 1, f"{result}")
    check("SIGKILL" in result["content"], f"{result}")
    graph = stage.call("memory__read_graph")
    check("Ghost" not in graph and "Ann" in graph, graph)
    print(f"  memory: create_entities killed in the call: {result['outcome']}, not run again")


def daemon_killed(stage):
    servers = {name: stage.server_of(name) for name in SERVERS if name != "web"}
    missing = [name for name, pid in servers.items() if not pid]
    check(not missing, f"{missing} do not run")
    stage.daemon.kill()
    gone = lambda pid: (stat(pid) or ("X",))[0] in "ZX"
    began = time.monotonic()
    wait_for(lambda: all(gone(pid) for pid in servers.values()), "a server outlives the daemon")
    print(f"  {len(servers)} servers gone {time.monotonic() - began:.2f} s after the daemon's SIGKILL")
    stage.start()
    check(not any(stage.server_of(name) for name in servers), "a server was started before it was needed")
    check(stage.call("clock__get_current_time", timezone="UTC"), "no time")


def metrics(stage):
    import urllib.request

    page = urllib.request.urlopen(stage.client.call("daemon.status")["metrics"], timeout=10).read().decode()
    for name in ("tool_servers", "tool_server_starts_total", "tool_server_deaths_total"):
        lines = [line for line in page.splitlines() if line.startswith(f"impresario_{name}{{")]
        check(any('server="memory"' in line for line in lines), f"no {name} of memory")


def make_repository(stage):
    stage.repository.mkdir()
    git = ["git", "-C", str(stage.repository), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    (stage.repository / "a.txt").write_text("a")
    subprocess.run([*git, "add", "a.txt"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "First"], check=True)
    for key, value in (("user.name", "a"), ("user.email", "a@example.org")):
        subprocess.run([*git, "config", key, value], check=True)


def turns(stage):
    arguments = {
        "files": {"path": f"{stage.folder}/hello.txt"},
        "git": {"repo_path": str(stage.repository)},
    }
    ghost = {"name": "Ghost", "entityType": "ghost", "observations": []}
    found = {
        "read the secret": [("files__read_text_file", {"path": str(stage.secret)})],
        "kill memory once": [("memory__create_entities", {"entities": [ghost]})],
    }
    for server in ("everything", "web"):
        found[f"all of {server}"] = [(f"{server}__{own}", given) for own, given in ARGUMENTS.items()]
    for server, (tool, given, _) in KILLED.items():
        # Words are looked for in this order: the longer ones stand first.
        found[f"kill {server}"] = [(tool, arguments.get(server, given))]
    return found


def play(stage):
    make_repository(stage)
    stage.write_script(turns(stage))
    stage.start_web()
    stage.start()
    began = {server["name"] for server in stage.client.call("tool.list")["tools"] if server["kind"] == "mcp_server"}
    check(began == set(SERVERS), f"the servers are {began}")
    check(not any(stage.server_of(name) for name in SERVERS if name != "web"), "a server was started early")
    print("every tool of server-everything:")
    everything(stage, "everything")
    everything(stage, "web")
    print("the other servers:")
    for act in (files, memory, git, clock):
        act(stage)
    print("kill -9 in the middle of a call:")
    for server in SERVERS:
        killed(stage, server)
    killed_once(stage)
    metrics(stage)
    print("kill -9 of the daemon:")
    daemon_killed(stage)
    stage.daemon.stop()


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    program, directory = (pathlib.Path(word).resolve() for word in sys.argv[1:])
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="imp-mcp-") as home:
        stage = Stage(program, directory, pathlib.Path(home))
        try:
            play(stage)
        except BaseException:
            log = pathlib.Path(home) / "daemon.log"
            if log.exists():
                print("".join(log.read_text(errors="replace").splitlines(keepends=True)[-60:]), file=sys.stderr)
            raise
        finally:
            stage.end()
    print(f"ok in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    # An order to end is an error like others, so that what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
