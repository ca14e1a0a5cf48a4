"""Services forked from a process that has imported them: each is itself, and takes nothing of its parent along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHARED = Path(__file__).resolve().parents[1]
TIMEOUT_S = 120
PARENT = """
import atexit, fcntl, os, signal, sys, threading, time
from pathlib import Path
from artstore.local.forking import fork, preload

here = Path(sys.argv[1])

def start(name, **environment):
    with (here / f"{name}.log").open("ab") as log:
        return fork(here / name, environment, log.fileno(), log.fileno())

def end(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

"""


def module(here: Path, name: str, program: str) -> None:
    """A module whose `main` runs the program, in the file system of a real one."""
    package = here / name / "app"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "own.py").write_text(f"NAME = {name!r}\n")
    lines = "".join(f"    {line}\n" for line in program.splitlines())
    (package / "main.py").write_text(
        f"import atexit, os, signal, sys, threading, time\nfrom .own import NAME\ndef main():\n{lines}"
    )


@contextmanager
def parent(here: Path, program: str) -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-c", PARENT + program, str(here)]
    environment = {**os.environ, "PYTHONPATH": str(SHARED)}
    with subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def run(here: Path, program: str) -> list[str]:
    with parent(here, program) as process:
        return process.communicate(timeout=TIMEOUT_S)[0].splitlines()


def test_each_service_has_its_own_package_environment_folder_log_and_command(tmp_path: Path) -> None:
    """/proc shows what would start it alone."""
    shows = "from pathlib import Path\n"
    shows += "print(NAME, os.environ, os.getcwd(), Path('/proc/self/cmdline').read_bytes().split(bytes(1))[1:], "
    shows += "Path('/proc/self/environ').read_bytes(), sep='|')"
    module(tmp_path, "one", shows)
    module(tmp_path, "two", shows)
    starts = "print(end(start('one', A='1')), end(start('two', B='2')))"
    assert run(tmp_path, f"preload([here / 'one', here / 'two'])\n{starts}") == ["0 0"]
    for name, letter, number in (("one", "A", 1), ("two", "B", 2)):
        environment = f"environ({{'{letter}': '{number}'}})"
        command = "[b'-m', b'app.main', b'']"
        expected = f"{name}|{environment}|{tmp_path / name}|{command}|b'{letter}={number}\\x00'\n"
        assert (tmp_path / f"{name}.log").read_text() == expected


def test_a_service_ends_as_a_program_does(tmp_path: Path) -> None:
    """Its status, its exit functions and its threads, and not its parent's."""
    module(tmp_path, "ends", """
atexit.register(print, "own exit function")
threading.Thread(target=lambda: (time.sleep(0.2), print("own thread"))).start()
""")  # fmt: skip
    module(tmp_path, "refuses", "sys.exit(2)")
    module(tmp_path, "says", "sys.exit('no such luck')")
    module(tmp_path, "fails", "raise ValueError('a fault')")
    module(tmp_path, "dies", "os.kill(os.getpid(), 9)")
    names = ["ends", "refuses", "says", "fails", "dies"]
    assert run(tmp_path, f"""
atexit.register(print, "parent's exit function")
preload([here / name for name in {names}])
try:
    print([end(start(name)) for name in {names}])
finally:
    print("parent goes on")
""") == ["[0, 2, 1, 1, -9]", "parent goes on", "parent's exit function"]  # fmt: skip
    assert (tmp_path / "ends.log").read_text() == "own thread\nown exit function\n"
    assert (tmp_path / "says.log").read_text() == "no such luck\n"
    assert (tmp_path / "fails.log").read_text().endswith("ValueError: a fault\n")


def test_a_service_inherits_no_lock_signal_handler_or_session(tmp_path: Path) -> None:
    module(tmp_path, "stays", "print(os.getsid(0) == os.getpid(), signal.getsignal(signal.SIGTERM), flush=True)\n"
                              "time.sleep(600)")  # fmt: skip
    assert run(tmp_path, """
signal.signal(signal.SIGTERM, lambda *_: print("the parent's handler"))
preload([here / "stays"])
with (here / "lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    pid = start("stays")
    while not (here / "stays.log").read_text():
        time.sleep(0.02)
with (here / "lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
os.kill(pid, signal.SIGTERM)
print(end(pid))
""") == ["-15"]  # fmt: skip
    assert (tmp_path / "stays.log").read_text() == "True 0\n"


def test_a_service_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    module(tmp_path, "stays", "time.sleep(600)")
    with parent(tmp_path, "preload([here / 'stays'])\nprint(start('stays'), flush=True)\ntime.sleep(600)") as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + TIMEOUT_S
    while (there := Path(f"/proc/{pid}").exists()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not there


def test_a_process_with_a_second_thread_forks_nothing(tmp_path: Path) -> None:
    """A fork copies the locks that the thread holds, and nothing would release them."""
    module(tmp_path, "never", "pass")
    assert run(tmp_path, """
preload([here / "never"])
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
try:
    start("never")
except RuntimeError as error:
    print(error)
""") == ["cannot fork a service: this process has more than one thread"]  # fmt: skip


SERVER = """
from artstore.local.fork_server import ForkServer, reap_orphans

def ask(server, name):
    with (here / f"{name}.log").open("ab") as log:
        return server.fork(here / name, {}, log.fileno())

"""


def test_a_fork_server_gives_its_parent_the_services_as_children(tmp_path: Path) -> None:
    """Also one that ends at once. The services outlive the server, which keeps no file open, and a new one takes its place."""
    module(tmp_path, "fails", "sys.exit(2)")
    module(tmp_path, "stays", "print(os.getppid(), NAME, flush=True)\ntime.sleep(600)")
    lines = run(tmp_path, SERVER + """
with (here / "lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    server = ForkServer([here / "fails", here / "stays"])
    server.start()
    print(end(ask(server, "fails")))
    stays = ask(server, "stays")
with (here / "lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
server.stop()
print(end(ask(server, "fails")))
while not (here / "stays.log").read_text():
    time.sleep(0.02)
server.stop()
children = {stays: None}
while Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text() != f"{stays} ":
    reap_orphans(children)  # the servers
    time.sleep(0.02)
os.kill(stays, signal.SIGTERM)
print(end(stays), os.getpid())
""")  # fmt: skip
    pid = lines[2].split()[1]
    assert lines == ["2", "2", f"-15 {pid}"]
    assert (tmp_path / "stays.log").read_text() == f"{pid} stays\n"


def test_a_fork_server_that_cannot_import_a_service_says_so(tmp_path: Path) -> None:
    module(tmp_path, "broken", "pass")
    (tmp_path / "broken" / "app" / "own.py").write_text("raise ValueError('a fault')\n")
    assert run(tmp_path, SERVER + """
try:
    ask(ForkServer([here / "broken"]), "broken")
except OSError as error:
    print(error)
""") == ["the services cannot be imported"]  # fmt: skip


def test_a_fork_server_that_does_not_answer_is_replaced_and_forks_nothing_later(tmp_path: Path) -> None:
    module(tmp_path, "slow", "pass")
    module(tmp_path, "ends", "print(NAME, flush=True)")
    (tmp_path / "frozen").touch()
    (tmp_path / "slow" / "app" / "own.py").write_text(
        "import os, time\nNAME = 'slow'\nwhile os.path.exists(os.environ['FROZEN']):\n    time.sleep(0.02)\n"
    )
    assert run(tmp_path, SERVER + """
from artstore.local import fork_server
os.environ["FROZEN"] = str(here / "frozen")
server = ForkServer([here / "slow", here / "ends"])
fork_server.ANSWER_TIMEOUT_S = 0.2
try:
    ask(server, "ends")
except TimeoutError:
    print("no answer")
fork_server.ANSWER_TIMEOUT_S = 60
(here / "frozen").unlink()
print(end(ask(server, "ends")), (here / "ends.log").read_text().strip())
""") == ["no answer", "0 ends"]  # fmt: skip
