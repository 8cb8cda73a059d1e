"""Run a command that must not outlive the program that started it.

Called as `python watchdog.py watched|detached GRACE_S COMMAND…`. Both modes start the command and write its process id
on stdout.

- `watched`: wait until the command ends, and end with its exit code. On SIGTERM, on SIGINT and when stdin closes (the
  parent closed it, or died, even by kill -9), stop the command: SIGTERM, and SIGKILL after `GRACE_S` seconds.
- `detached`: end at once; the command lives on.

It runs as a file, isolated from the environment, and so uses the standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys


def command_line(command: list[str], grace_s: float, *, watched: bool = True) -> list[str]:
    """Return the command that runs this file on `command`: independent of the working folder, started in 20 ms."""
    return [sys.executable, "-I", "-S", __file__, "watched" if watched else "detached", str(grace_s), *command]


def _signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    # The group ceases to exist when its last member has ended and been waited for.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def stop(child: subprocess.Popen[bytes], grace_s: float) -> int:
    """Ask the child's process group to end, and kill it after `grace_s` seconds. Returns the child's exit code."""
    _signal_group(child, signal.SIGTERM)
    # A suspended process takes no SIGTERM until it is resumed.
    _signal_group(child, signal.SIGCONT)
    try:
        return child.wait(grace_s)
    except subprocess.TimeoutExpired:
        _signal_group(child, signal.SIGKILL)
        return child.wait()


def watch(command: list[str], grace_s: float) -> int:
    """Run the command until it ends, stdin closes or SIGTERM or SIGINT arrives. Returns its exit code."""
    waker, wakes = socket.socketpair()
    with waker, wakes:
        # A signal's number arrives on `wakes`, so that one select waits for all three. Set before the child can end.
        wakes.setblocking(False)
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno())
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        child = start(command)
        while True:
            ready, _, _ = select.select([sys.stdin, wakes], [], [])
            signals = wakes.recv(64) if wakes in ready else b""
            if (code := child.poll()) is not None:
                return code
            parent_closed = sys.stdin in ready and not os.read(sys.stdin.fileno(), 64)
            if parent_closed or signal.SIGTERM in signals or signal.SIGINT in signals:
                return stop(child, grace_s)


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start the command in its own session, so that it doesn't get the terminal's Ctrl-C, and write its process id."""
    child = subprocess.Popen(  # noqa: S603 (the caller's own server, no shell)
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        # The command inherits what the parent passed on to it: a lock. The descriptors made here aren't inheritable.
        close_fds=False,
    )
    try:
        sys.stdout.write(f"{child.pid}\n")
        sys.stdout.flush()
    except OSError:
        # The parent has died or was interrupted: nothing else knows of the server, so it must not live on.
        sys.exit(stop(child, 0.0))
    return child


def main(arguments: list[str]) -> int:
    """Run `watched|detached GRACE_S COMMAND…`. Returns the exit code, below 256 also after a death by signal."""
    mode, grace_s, *command = arguments
    if mode == "detached":
        # Its parent is now the system's first process; Popen shall not complain that nothing waits for it.
        start(command).returncode = 0
        return 0
    return watch(command, float(grace_s)) & 0xFF


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
