"""Keep a server no longer than the program that wanted it: `python guardian.py kept|free GRACE_S COMMAND…`.

Told `kept`, it starts the command, writes its process id on stdout, and waits. When its own stdin closes (the parent
stopped it, or died of anything, kill -9 included), or on SIGTERM, it stops the command: SIGTERM, `GRACE_S` seconds, then SIGKILL.
It ends with the command's exit code. Told `free`, it leaves at once and the command lives on.

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


def _signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    # The group is gone once its last member was waited for: nothing left to tell.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def stop(child: subprocess.Popen[bytes], grace_s: float) -> int:
    """Ask the child's process group to end, and kill it after `grace_s` seconds. Returns its exit code."""
    _signal_group(child, signal.SIGTERM)
    # A suspended process takes no SIGTERM until it goes on.
    _signal_group(child, signal.SIGCONT)
    try:
        return child.wait(grace_s)
    except subprocess.TimeoutExpired:
        _signal_group(child, signal.SIGKILL)
        return child.wait()


def keep(command: list[str], grace_s: float) -> int:
    """Run the command until it ends, stdin closes or SIGTERM arrives. Returns its exit code."""
    waker, wakes = socket.socketpair()
    with waker, wakes:
        # The signal's number arrives on `wakes`, so that one select waits for all three. Set before the child can end.
        wakes.setblocking(False)
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno())
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        child = start(command)
        while True:
            ready, _, _ = select.select([sys.stdin, wakes], [], [])
            told = wakes.recv(64) if wakes in ready else b""
            if (code := child.poll()) is not None:
                return code
            parent_gone = sys.stdin in ready and not os.read(sys.stdin.fileno(), 64)
            if parent_gone or signal.SIGTERM in told or signal.SIGINT in told:
                return stop(child, grace_s)


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start the command in a session of its own (Ctrl-C in the terminal isn't meant for it) and tell its process id."""
    child = subprocess.Popen(  # noqa: S603 (the caller's own server, no shell)
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        # What the parent let us inherit, a lock, is meant for the command. Our own descriptors aren't inheritable.
        close_fds=False,
    )
    try:
        sys.stdout.write(f"{child.pid}\n")
        sys.stdout.flush()
    except OSError:
        # Whoever wanted it is gone, or was interrupted: a server that nobody knows of must not live.
        sys.exit(stop(child, 0.0))
    return child


def main(arguments: list[str]) -> int:
    """Read `kept|free GRACE_S COMMAND…`. Returns the exit code, below 256 also for a child that died of a signal."""
    mode, grace_s, *command = arguments
    if mode == "free":
        # Its parent is now the system's first process; nobody here waits for it.
        start(command).returncode = 0
        return 0
    return keep(command, float(grace_s)) & 0xFF


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
