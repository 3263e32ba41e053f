"""What a process writes goes through a pipe to another process of ours, which redacts it and only then writes it down.

So no file ever holds what was not redacted.  It is a process of its own, in a session of its own, because perfkit may
be killed at any time: what Locust writes until it ends too is still redacted, and Locust never meets a broken pipe.

Run as a program (``python -I -S redacted_output.py``, which is quick: it needs the standard library alone), this file
is that process.  The first line of its standard input is `concealed_values`; the rest, redacted, goes to its standard
output.  It ends with its input, or on SIGTERM when it has read what is there.
"""

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import IO, Self

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[2]))
from perfkit.model.redaction import RedactedStream, conceal_values_of, concealed_values

CHUNK = 65536
LEFT_OPEN_S = 1.0  # a process that Locust has left behind may hold the pipe open
DRAIN_S = 5.0
EXIT_INCOMPLETE = 74  # EX_IOERR of sysexits.h: all was read, and not all could be written


class RedactedOutput:
    """A pipe, `fd`, whose text reaches the target redacted; give it to a process, then `close_here`.

    `is_complete` is known after `finish`: whether all of it was written.
    """

    def __init__(self, target: IO[bytes] | int) -> None:
        self.is_complete = False
        reading, self.fd = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__],
                stdin=reading,
                stdout=target,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            os.close(self.fd)
            raise
        finally:
            os.close(reading)
        with suppress(BrokenPipeError):  # it has failed, and `finish` says so
            _write(self.fd, concealed_values().encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def close_here(self) -> None:
        """Leave the pipe to the processes that have it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def finish(self) -> None:
        """Wait until everything is written, of what is there when Locust has ended."""
        self.close_here()
        for insist, wait_s in ((self._process.terminate, LEFT_OPEN_S), (self._process.kill, DRAIN_S)):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(wait_s)
                break
            insist()
        self.is_complete = self._process.wait() == 0


def _write(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]


def _chunks(waking: int) -> Iterator[bytes]:
    """Standard input; once `waking` can be read, only what is there already."""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(waking, selectors.EVENT_READ)
        while waking not in {key.fd for key, _ in selector.select()}:
            if not (chunk := os.read(0, CHUNK)):
                return
            yield chunk
    os.set_blocking(0, False)
    with suppress(BlockingIOError):
        while chunk := os.read(0, CHUNK):
            yield chunk


def main() -> int:
    """Redact standard input until it ends; what cannot be written is read all the same, for nobody may wait."""
    waking, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGTERM, lambda *_: None)
    with open(0, "rb", buffering=0, closefd=False) as stdin:  # unbuffered: what follows is read by `_chunks`
        conceal_values_of(stdin.readline().decode())
    stream, is_complete = RedactedStream(), True
    pieces = map(stream.feed, _chunks(waking))
    for piece in chain(pieces, map(RedactedStream.finish, (stream,))):
        try:
            if is_complete:
                _write(1, piece)
        except OSError:
            is_complete = False
    return 0 if is_complete else EXIT_INCOMPLETE


if __name__ == "__main__":
    sys.exit(main())
