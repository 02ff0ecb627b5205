"""What `make run` needs of the operating system: children that end with us, and their words."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
STOP_S = 15.0
_PR_SET_PDEATHSIG = 1  # prctl(2)
# Loaded here: between fork and exec there is no time for it.
_LIBC = ctypes.CDLL(None)


class Output:
    """Our standard output. When its reader has gone, `gone` is called once and nothing is said."""

    def __init__(self, gone: Callable[[], None]) -> None:
        self._gone = gone
        self._broken = False

    def line(self, text: str) -> None:
        """Print at once. `head` closes the pipe, a terminal that is closed answers EIO."""
        if self._broken:
            return
        try:
            print(text, flush=True)
        except OSError:
            self._broken = True
            # The interpreter flushes once more on its way out.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._gone()

    def say(self, text: str) -> None:
        """One line of ours, with the local time."""
        self.line(f"{datetime.now(UTC).astimezone():%H:%M:%S}  {text}")


class StatusSocket:
    """A NOTIFY_SOCKET, as systemd has it (sd_notify(3)): `last` is the last STATUS that came."""

    def __init__(self) -> None:
        self.last = ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)
        # unix(7), "Autobind feature": the kernel chooses an abstract name, so there is no file.
        self._socket.bind("")
        self.address = f"@{self._socket.getsockname()[1:].decode()}"
        asyncio.get_running_loop().add_reader(self._socket, self.read)

    def read(self) -> None:
        """Take what has come."""
        with contextlib.suppress(BlockingIOError):
            while True:
                message = self._socket.recv(4096).decode(errors="replace")
                for line in message.splitlines():
                    name, _, value = line.partition("=")
                    if name == "STATUS":
                        self.last = value

    def close(self) -> None:
        """Take what has come, and no more."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self.read()
        self._socket.close()


def _end_with(parent: int) -> None:
    """In the child: SIGTERM when the process that started it dies, whatever it dies of."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)  # It died before we had asked for the signal.


@dataclass
class Program:
    """One of the two programs as a child process; its log lines pass through.

    `code` is its exit code once `ended` is set, negative for a signal.
    """

    name: str
    module: str
    environ: Mapping[str, str]
    output: Output
    code: int | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _process: asyncio.subprocess.Process | None = None
    _watching: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, None before the start."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start it in a session of its own: Ctrl-C is for us to pass on, in order."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self.module,
            env=dict(self.environ),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(_end_with, os.getpid()),
        )
        self._watching = asyncio.create_task(self._watch(self._process))

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        rest = b""
        # Read to the end whether or not anybody listens: a full pipe would stop the program.
        while chunk := await process.stdout.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self.output.line(f"[{self.name}] {line.decode(errors='replace')}")
        if rest:
            self.output.line(f"[{self.name}] {rest.decode(errors='replace')}")
        self.code = await process.wait()
        self.ended.set()

    async def stop(self) -> int:
        """SIGTERM, and SIGKILL when that is not enough; its exit code, 0 if it never ran."""
        if self._process is None or self._watching is None:
            return 0
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            done, _ = await asyncio.wait([self._watching], timeout=STOP_S)
            if not done:
                self.output.say(f"the {self.name} did not stop within {STOP_S:.0f} s, killing it")
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
        await self._watching
        assert self.code is not None
        # Asked to stop before it was able to listen: it did.
        return 0 if self.code == -signal.SIGTERM else self.code

    @property
    def fate(self) -> str:
        """How it ended, in words."""
        if self.code is not None and self.code < 0:
            return f"was ended by signal {-self.code} ({signal.strsignal(-self.code)})"
        return f"ended with exit code {self.code}"


def exit_code(code: int) -> int:
    """As a shell gives it: 128 and the signal's number for a program that a signal ended."""
    return code if code >= 0 else 128 - code
