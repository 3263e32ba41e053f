"""The container engine of this machine: Docker or Podman, asked before it is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from perfkit.errors import LoadError

KINDS = ("docker", "podman")  # in the order in which they are tried
ASK_TIMEOUT_S = 30.0
_ROOTLESS = {"docker": "{{json .SecurityOptions}}", "podman": "{{.Host.Security.Rootless}}"}


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine that answers."""

    path: str
    kind: str  # docker or podman; a `docker` that is Podman in disguise is podman
    is_rootless: bool

    def user_options(self) -> list[str]:
        """Options of ``run`` under which files in a mounted folder belong to the caller."""
        me = f"{os.getuid()}:{os.getgid()}"
        if not self.is_rootless:
            return ["--user", me]
        if self.kind == "podman":
            return ["--userns", "keep-id", "--user", me]
        return ["--user", "0:0"]  # rootless Docker maps this user, and no other, to the caller

    def ask(self, *words: str, timeout_s: float = ASK_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """Run a command of the engine to its end, out of reach of Ctrl-C, with its output kept."""
        return _ask(self.path, *words, timeout_s=timeout_s)


def find_engine(wanted: str | None = None) -> Engine:
    """The engine of that kind, or the first that answers of Docker and Podman.

    Raises
    ------
    LoadError
        None answers; says why for each, and what else can be done.
    """
    problems = []
    for kind in (wanted,) if wanted else KINDS:
        answer = _try(kind)
        if isinstance(answer, Engine):
            return answer
        problems.append(answer)
    raise LoadError(
        f"no container engine: {'; '.join(problems)}. Install and start Docker or Podman, or run without --docker: "
        "Locust then runs on this machine itself, with --workers on several cores."
    )


def _try(kind: str) -> Engine | str:
    """The engine, or what is wrong with it."""
    path = shutil.which(kind)
    if path is None:
        return f"{kind} is not installed"
    try:
        real = "podman" if "podman" in _ask(path, "--version").stdout.lower() else "docker"
        done = _ask(path, "info", "--format", _ROOTLESS[real])
    except subprocess.TimeoutExpired:
        return f"{path} does not answer within {ASK_TIMEOUT_S:g} s"
    except OSError as error:
        return f"{path} cannot be started ({error.strerror})"
    if done.returncode:
        return f"{path} does not work ({last_line(done.stderr)})"
    is_rootless = "rootless" in done.stdout if real == "docker" else done.stdout.strip() == "true"
    return Engine(path, real, is_rootless)


def _ask(path: str, *words: str, timeout_s: float = ASK_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [path, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
        start_new_session=True,
    )


def last_line(text: str) -> str:
    """The last line that says something, without the full stop."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "it does not say why"
