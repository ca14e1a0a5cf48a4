"""Runs many `artstore` commands for the price of one start: a server imports the command once and forks for each run.

`prefork.py serve SOCKET` is the server. `prefork.py call SOCKET ARGUMENTS…` stands for `artstore ARGUMENTS…`: it hands its
three streams, folder and environment to a child of the server, passes signals on, and ends with the child's exit code.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

MAX_REQUEST_BYTES = 1 << 20


def serve(path: str) -> None:
    import asyncio  # noqa: F401
    import getpass  # noqa: F401

    import rich.progress  # noqa: F401
    import typer._adapters  # noqa: F401

    import artstore_client  # noqa: F401
    from artstore_cli.app import main
    from artstore_cli.commands import get, put  # noqa: F401

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        print("ready", flush=True)
        while True:
            caller, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                supervise(caller, main)
            caller.close()


def supervise(caller: socket.socket, main: Callable[[], None]) -> None:
    """In a process of its own for each call: forks the command, and reports its pid and how it ended."""
    text, streams, _, _ = socket.recv_fds(caller, MAX_REQUEST_BYTES, 3)
    request = json.loads(text)
    pid = os.fork()
    if pid == 0:
        caller.close()
        run(request, streams, main)
    for stream in streams:
        os.close(stream)
    caller.sendall(f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    caller.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def run(request: dict[str, Any], streams: list[int], main: Callable[[], None]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[1:] = request["arguments"]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(code)


def call(path: str, arguments: list[str]) -> int:
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
        answers = server.makefile()
        pid = int(answers.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(pid, number))
        for stream in (0, 1, 2):
            os.close(stream)
        code = int(answers.readline())
        return code if code >= 0 else 128 - code


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    os._exit(call(sys.argv[2], sys.argv[3:]))
