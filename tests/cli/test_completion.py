"""What a shell completes: asked through click's own interface, and once in a real bash."""

import json
import shutil
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
    shop = nights(rng, 3, scenario="shop", git=git, labels={"build": "1.4", "hostile": "$(touch x)"})
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
    assert completed("runs", "--label", "bu") == ["build=1.4"]
    assert ids[0] in completed("runs", "--store", str(folder / "data/runs"), "verify", "2025")
    # a name that a shell would run is never put at a prompt
    everything = [completed(*words, "") for words in (("run",), ("compare",), ("runs", "--label"), ("changes",))]
    assert not [word for words in everything for word in words if "$" in word]


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
ask() {{ COMP_LINE=$1 COMP_POINT=${{#1}}; _perfkit_completion perfkit; echo "$1 -> ${{COMPREPLY[*]}}"; }}
ask 'perfkit compare shop@previous'
ask 'perfkit runs --label build='
"""
    done = subprocess.run([bash, "--norc", "-c", script], cwd=folder, capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert lines == ["perfkit compare shop@previous -> previous:5", "perfkit runs --label build= -> 1.4"], done.stderr
