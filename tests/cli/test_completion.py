"""What a shell completes: asked through click's own interface, and once in a real bash."""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from command_line import invoke
from histories import nights, stored

import perfkit.cli
from perfkit.cli.completion import VARIABLE


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    import numpy as np

    folder, rng = tmp_path_factory.mktemp("completed"), np.random.default_rng(1)
    git = {"commit": "abcd" * 10, "branch": "main"}
    services = ("GET /items/{id}", "GET /`id`", "a")
    shop = nights(rng, 3, services=services, scenario="shop", git=git, labels={"build": "1.4", "hostile": "$(touch x)"})
    evil = nights(rng, 1, first=9, scenario="$(touch x)")
    _, ids = stored(folder / "data/runs", shop, evil)
    (folder / "data/runs/20991231T000000Z-shop-dead").mkdir()  # not finished
    for name in ("20991230T000000Z-shop-beef", "20991230T000000Z-rag-beef"):
        (folder / "data/runs" / name).mkdir()
        (folder / "data/runs" / name / "run.json").write_text('{"scenario": ')
    (folder / "perfkit.toml").write_text('[scenario.checkout]\nhost = "http://127.0.0.1:1"\nlocustfile = "l.py"\n')
    (folder / "data/baselines/shop").mkdir(parents=True)
    (folder / "data/baselines/shop/v1.json").write_text(json.dumps({"scenario": "shop", "name": "v1.4"}))
    (folder / "data/baselines/shop/broken.json").write_text("[")
    return folder, ids


def completed(*words):
    found = ShellComplete(perfkit.cli.perfkit, {}, "perfkit", VARIABLE).get_completions(list(words[:-1]), words[-1])
    return [item.value for item in found if item.type == "plain"]


def test_scenarios_runs_selectors_labels_and_metrics_are_completed(place, monkeypatch):
    folder, ids = place
    monkeypatch.chdir(folder)
    assert {"compare", "completion"} <= set(completed("comp"))
    assert set(ids[:3]) <= set(completed("compare", "2025"))
    assert completed("runs", "show", ids[0][:-2]) == [ids[0]]
    assert "20991231T000000Z-shop-dead" not in completed("runs", "show", "2099")
    assert {"shop@last:5", "shop@previous:5", "shop@rolling"} <= set(completed("compare", ids[0], "--candidate", "sh"))
    for word, expected in (
        ("shop@", "shop@last:5"),
        ("shop@pinned:", "shop@pinned:v1.4"),
        ("shop@commit:ab", "shop@commit:abcdabcdab"),
        ("shop@branch:", "shop@branch:main"),
        ("shop@label:b", "shop@label:build=1.4"),
    ):
        assert expected in completed("baseline", "pin", "x", word), word
    assert {"checkout", "shop", "baseline"} <= set(completed("run", ""))
    assert "shop" in completed("report", "trend", "")
    assert completed("plan", "--scenario", "checko") == ["checkout"]
    assert "p95" in completed("changes", "--metric", "p")
    assert completed("changes", "--service", "GET") == completed("compare", "--explain", "GET /") == ["GET /items/{id}"]
    assert completed("runs", "--label", "bu") == ["build=1.4"]
    assert completed("baseline", "show", "v") == ["v1.4"]
    assert completed("docs", "hist") == ["history"]
    assert completed("import", "x", "--scenario", "checko") == ["checkout"]
    of_files = ShellComplete(perfkit.cli.perfkit, {}, "perfkit", VARIABLE).get_completions(["import"], "res")
    assert [(item.type, item.value) for item in of_files] == [("file", "res")]
    assert ids[0] in completed("runs", "--store", str(folder / "data/runs"), "verify", "2025")
    # a name that a shell would run is never put at a prompt
    everything = [
        completed(*words, "")
        for words in (("run",), ("compare",), ("runs", "--label"), ("changes",), ("changes", "--service"))
    ]
    assert not [word for words in everything for word in words if set("$`") & set(word)]


@pytest.mark.parametrize("words", [("compare", ""), ("run", ""), ("changes", "--metric", ""), ("runs", "--label", "")])
def test_nothing_goes_wrong_at_a_prompt(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    completed(*words)
    Path("perfkit.toml").write_text("store = [")
    completed(*words)
    completed(words[0], "--store", "${NOT_SET}", *words[1:])
    completed(words[0], "--store", "s3://nowhere/at-all", *words[1:])
    completed(words[0], "--settings", "none.toml", *words[1:])
    for instruction in ("bash_complete", "tcsh_complete", "bash_what", "", "zsh_complete"):
        monkeypatch.setenv(VARIABLE, instruction)  # and no words at all
        assert invoke()[::2] == (0, "")


def test_every_shell_has_a_script():
    for shell, sign in (("bash", "complete -o nosort -F"), ("zsh", "compdef"), ("fish", "complete ")):
        code, out, err = invoke("completion", shell)
        assert (code, err, sign in out, VARIABLE in out) == (0, "", True, True)
    assert invoke("completion", "tcsh")[0] == 2


def test_a_real_bash_completes_words_that_it_breaks(place):
    folder, _ = place
    bash = shutil.which("bash")
    assert bash is not None
    script = f"""
perfkit() {{ {sys.executable} -m perfkit "$@"; }}
eval "$(perfkit completion bash)"
ask() {{ COMP_LINE=$1 COMP_POINT=${{#1}}; COMP_WORDS=("${{2-}}"); COMP_CWORD=0
    _perfkit_completion perfkit; echo "$1 -> ${{COMPREPLY[*]}}"; }}
ask 'perfkit compare shop@previous'
ask 'perfkit runs --label build='
ask 'perfkit runs --label=bu'
ask 'perfkit runs --label=build='
ask 'perfkit changes --service GET\\ '
ask 'perfkit changes --service "GET ' '"GET '
"""
    done = subprocess.run([bash, "--norc", "-c", script], cwd=folder, capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert lines == [
        "perfkit compare shop@previous -> previous:5",
        "perfkit runs --label build= -> 1.4",
        "perfkit runs --label=bu -> build=1.4",
        "perfkit runs --label=build= -> 1.4",
        "perfkit changes --service GET\\  -> GET\\ /items/\\{id\\}",
        'perfkit changes --service "GET  -> GET /items/{id}',
    ], done.stderr


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """The folder of a program `perfkit` that a shell finds."""
    program = tmp_path / "perfkit"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m perfkit "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_a_real_fish_completes_values_behind_an_option_and_shows_whole_texts(place, on_path):
    folder, ids = place
    script = f"""
{invoke("completion", "fish")[1]}
for line in 'perfkit compare 2025' 'perfkit runs --label=bu' 'perfkit changes --la'
    complete -C $line | head -n 1
end
"""
    done = subprocess.run(["fish", "--no-config"], input=script, cwd=folder, capture_output=True, text=True, timeout=60)
    texts = "--label\tOnly runs with this label; may be repeated, and all count."  # commas part nothing
    assert done.stdout.splitlines() == [max(ids), "--label=build=1.4", texts], done.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_a_real_zsh_completes_values_behind_an_option_and_lets_a_selector_go_on(place, on_path):
    """What the line holds once Tab was pressed, in a terminal of its own."""
    folder, _ = place
    begin = (
        f"cd {folder}; PS1='> '; autoload -Uz compinit; compinit -u -D; eval \"$(perfkit completion zsh)\"; "
        f'dump() {{ print -r -- "$BUFFER|" >> {on_path}/lines; BUFFER=; print RE""ADY }}; '
        "zle -N dump; bindkey '^X' dump; print RE''ADY\n"
    )
    process, terminal = pty.fork()
    if process == 0:
        os.execvp("zsh", ["zsh", "-f", "-i"])
    try:
        typed = [f"perfkit {line}\t\x18" for line in ("runs --label=bu", "compare shop@lab", "run --locustf")]
        for line in (begin, *typed):
            os.write(terminal, line.encode())
            seen = b""
            while b"READY" not in seen and select.select([terminal], [], [], 20)[0]:
                seen += os.read(terminal, 4096)
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)
    assert (on_path / "lines").read_text().splitlines() == [
        "perfkit runs --label=build=1.4 |",
        "perfkit compare shop@label:|",
        "perfkit run --locustfile |",
    ]
