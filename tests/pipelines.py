"""What a CI server does with a pipeline file, as far as the examples need it: steps, conditions, outputs, shells."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from samples import REPOSITORY

ACTION = yaml.safe_load((REPOSITORY / "action.yml").read_text(encoding="utf-8"))
PROVIDED = ("actions/checkout", "actions/setup-python", "actions/cache")  # what the test has done already
TOO_LONG = re.compile(r"perfkit check(?! --settings-only)")  # a minute of load, which tests of its own make


def run(folder, *words):
    return subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True).stdout


def python_with_perfkit(folder: Path) -> dict[str, str]:
    """An environment as a CI machine has it: a fresh Python, nobody's home, and a wheel to install offline."""
    run(folder, sys.executable, "-m", "venv", "venv")
    run(folder, sys.executable, "-m", "build", "--wheel", "--outdir", str(folder / "wheel"), str(REPOSITORY))
    (wheel,) = (folder / "wheel").glob("perfkit-*.whl")
    (folder / "home").mkdir()
    machine = {
        "PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}",
        "HOME": str(folder / "home"),
        "LANG": "C.UTF-8",
        # What perfkit depends on is here already; only perfkit itself comes from the wheel.
        "PYTHONPATH": sysconfig.get_paths()["purelib"],
        "JUPYTER_PATH": f"{sysconfig.get_paths()['data']}/share/jupyter",
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "WHEEL": str(wheel),
        "CI": "true",
    }
    subprocess.run(
        [folder / "venv" / "bin" / "python", "-m", "pip", "install", "-q", wheel], env=machine, check=True, timeout=120
    )
    return machine


@dataclass
class Ran:
    """A step that was run."""

    name: str
    code: int
    out: str
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass
class GitHubJob:
    """A job of a workflow on one machine; ``contexts`` are those of expressions, by name."""

    workspace: Path
    machine: dict[str, str]
    contexts: dict[str, dict]
    replaced: dict[str, str] = field(default_factory=dict)  # what stands for an address that the test cannot reach
    ran: list[Ran] = field(default_factory=list)
    artifacts: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self):
        self.page = self.workspace.parent / f"{self.workspace.name}-summary.md"
        self.contexts.setdefault("steps", {})

    def carry_out(self, job) -> bool:
        """Run its steps; whether all went well."""
        shell = job.get("defaults", {}).get("run", {}).get("shell", "")
        return self._steps(job["steps"], self._filled(job.get("env", {})), shell)

    def __getitem__(self, name) -> Ran:
        return next(one for one in self.ran if one.name == name)

    def _steps(self, steps, env, shell="") -> bool:
        well = True
        for step in steps:
            if not self._applies(str(step.get("if", "")), well):
                self._note(step, "skipped", {})
                continue
            own = {**env, **self._filled(step.get("env", {}))}
            done, outputs = self._use(step, own) if "uses" in step else self._run(step, own, step.get("shell", shell))
            self._note(step, "success" if done else "failure", outputs)
            well = well and done
        return well

    def _note(self, step, outcome, outputs):
        if "id" in step:
            self.contexts["steps"][step["id"]] = {"outcome": outcome, "outputs": outputs}

    def _use(self, step, env):
        what, _, _ = step["uses"].partition("@")
        given = self._filled(step.get("with", {}))
        if what in PROVIDED:
            return True, {}
        if what == "actions/upload-artifact":
            path = self.workspace / given["path"]
            assert any(path.rglob("*")), f"{path} holds nothing to keep"
            self.artifacts[given["name"]] = path
            return True, {}
        assert what == "./.perfkit"
        return self._composite(given, env)

    def _composite(self, given, env):
        assert set(given) <= set(ACTION["inputs"])
        inputs = {name: given.get(name, one["default"]) for name, one in ACTION["inputs"].items()}
        inside = GitHubJob(self.workspace, self.machine, {**self.contexts, "inputs": inputs, "steps": {}})
        inside.replaced, inside.ran, inside.page = self.replaced, self.ran, self.page
        inside.contexts["github"] = {**self.contexts["github"], "action_path": self.machine["WHEEL"]}
        well = inside._steps(ACTION["runs"]["steps"], env)
        return well, {name: inside._text(one["value"]) for name, one in ACTION["outputs"].items()}

    def _run(self, step, env, shell):
        assert "${{" not in step["run"], "what comes from outside goes through the environment"
        script = TOO_LONG.sub("perfkit check --settings-only", step["run"])
        script = re.sub(r" --settings-only(.*) --fail-on \S+", r" --settings-only\1", script)
        outputs = self.workspace.parent / f"{self.workspace.name}-output"
        outputs.write_text("")
        files = {"GITHUB_OUTPUT": str(outputs), "GITHUB_STEP_SUMMARY": str(self.page)}
        options = ["--noprofile", "--norc", "-eo", "pipefail"] if shell == "bash" else ["-e"]
        done = shell_run(["bash", *options], script, self.workspace, {**self.machine, **env, **files})
        told = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
        self.ran.append(Ran(step.get("name", step["run"]), done.returncode, done.stdout, told))
        return done.returncode == 0, told

    def _filled(self, values):
        return {name: self._text(str(value)) for name, value in values.items()}

    def _text(self, text):
        for address, instead in self.replaced.items():
            text = text.replace(address, instead)
        return re.sub(r"\$\{\{\s*([\w.-]+)\s*\}\}", lambda match: self._looked_up(match[1]), text)

    def _looked_up(self, path):
        value = self.contexts
        for name in path.split("."):
            value = value.get(name, "") if isinstance(value, dict) else ""
        return "" if value == {} else str(value)

    def _applies(self, condition, well):
        text = re.sub(r"^\$\{\{|\}\}$", "", condition).strip()
        states = {"!cancelled()": True, "always()": True, "failure()": not well, "success()": well}
        known = [name for name in states if name in text]
        for name in known:
            text = text.replace(name, str(states[name]))
        text = re.sub(r"\b[a-z_]+(?:\.[\w-]+)+", lambda match: repr(self._looked_up(match[0])), text)
        value = eval(text.replace("&&", " and ").replace("||", " or ")) if text else True
        return bool(value) and (well or bool(known))


def shell_run(shell, script, folder, env):
    """Run a script as a CI server does: from a file, without standard input, both outputs in one."""
    file = folder.parent / f"{folder.name}-script.sh"
    file.write_text(script, encoding="utf-8")
    return subprocess.run(
        [shutil.which(shell[0]), *shell[1:], str(file)],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=240,
    )
