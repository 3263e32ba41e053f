"""The action and the pipeline examples fit the published schemas, and their shell steps do what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner
from github_server import REPOSITORY as OWNER_AND_NAME
from github_server import TOKEN
from github_server import serving as github
from junit_reports import junit
from mail_server import serving as mail_server
from object_store import make_bucket, object_store
from pipelines import ACTION, GitHubJob, python_with_perfkit, shell_run
from repositories import LOCUSTFILE, SERVICE, git
from samples import REPOSITORY

from perfkit import RunStore
from perfkit.cli import perfkit
from perfkit.report.report_set import read_overview

CI = REPOSITORY / "examples" / "ci"
GITHUB = sorted((CI / "github").glob("*.yml"))
GITLAB = CI / "gitlab" / ".gitlab-ci.yml"
JENKINS = CI / "jenkins" / "Jenkinsfile"
SCHEMAS = {
    "vendor.github-workflows": GITHUB,
    "custom.github-workflows-require-timeout": GITHUB,
    "vendor.github-actions": [REPOSITORY / "action.yml"],
    "vendor.gitlab-ci": [GITLAB],
}


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def fits(schema, *paths):
    """Whether the schema that check-jsonschema carries, which is the published one, takes the files; no network."""
    more = ["--data-transform", "gitlab-ci"] if "gitlab" in schema else []
    return CliRunner().invoke(check_jsonschema, ["--builtin-schema", schema, *map(str, paths), *more])


@pytest.mark.parametrize(("schema", "paths"), SCHEMAS.items(), ids=list(SCHEMAS))
def test_files_fit_the_published_schemas(schema, paths):
    assert paths
    done = fits(schema, *paths)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ("vendor.github-workflows", "runs-on:", "run-on:"),
        ("vendor.github-actions", "using:", "use:"),
        ("vendor.gitlab-ci", "rules:", "rulez:"),
    ],
)
def test_a_mistake_would_be_found(schema, right, wrong, tmp_path):
    path = SCHEMAS[schema][0]
    text = path.read_text(encoding="utf-8")
    assert right in text
    (tmp_path / path.name).write_text(text.replace(right, wrong))
    assert fits(schema, tmp_path / path.name).exit_code == 1


# What the files say ------------------------------------------------------------------------------------------------


def scripts():
    """Every shell script of the files, with where it stands."""
    for path in GITHUB:
        for job in read(path)["jobs"].values():
            yield from ((path.name, step["run"]) for step in job["steps"] if "run" in step)
    yield from (("action.yml", step["run"]) for step in ACTION["runs"]["steps"])
    for job in read(GITLAB).values():
        if isinstance(job, dict):
            yield from ((GITLAB.name, line) for key in ("before_script", "script") for line in job.get(key, ()))
    yield from ((JENKINS.name, script) for script in jenkins_scripts().values())


def jenkins_scripts():
    """The ``sh`` steps of the Jenkinsfile, by the name of their stage."""
    found = re.findall(r"stage\('([^']+)'\).*?sh '''\n(.*?)'''", JENKINS.read_text(encoding="utf-8"), re.DOTALL)
    return dict(found)


@pytest.mark.parametrize(("place", "script"), list(scripts()))
def test_nothing_from_outside_is_put_into_a_script(place, script):
    assert "${{" not in script
    assert not re.search(r"\beval\b|\$\{?(?:BASE|HEAD)_REF", script)
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.parametrize("path", GITHUB, ids=lambda path: path.name)
def test_workflows_ask_for_as_little_as_they_need(path):
    document = read(path)
    assert document["permissions"]["contents"] in ("read", "write")
    assert set(document["permissions"].values()) <= {"read", "write"}
    assert "pull_request_target" not in document[True]  # YAML reads the key `on` as true
    for job in document["jobs"].values():
        assert job["timeout-minutes"] <= 360
        for step in job["steps"]:
            assert "secrets." not in json.dumps(job.get("env", {}))
            assert re.fullmatch(r"actions/[\w-]+@v[\d.]+|\./\.perfkit", step.get("uses", "actions/x@v1"))


@pytest.mark.parametrize(("place", "script"), list(scripts()))
def test_command_lines_are_perfkits_own(place, script):
    """Each command exists and knows the options; what they do is tried below."""
    joined = re.sub(r"\\\n\s*", " ", script)
    for line in re.findall(r"\bperfkit ([a-z][^|;&)\n#]*)", joined):
        words = line.split()
        group, names = perfkit, []
        while words and getattr(group, "commands", {}).get(words[0]):
            group = group.commands[words[0]]
            names.append(words.pop(0))
        assert names, line
        known = {option for parameter in group.params for option in parameter.opts}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known, line


def test_the_action_is_read_by_name_only():
    text = (REPOSITORY / "action.yml").read_text()
    for name in re.findall(r"inputs\.([\w-]+)", text):
        assert name in ACTION["inputs"]
    for step in ACTION["runs"]["steps"]:
        assert step["shell"] == "bash"
        for name in re.findall(r"\$\{?([A-Z_]+)", step["run"]):
            assert name in step.get("env", {}) or name == "GITHUB_OUTPUT", name


def test_no_file_fetches_what_nobody_has_published():
    """Whoever registers such a name owns the pipeline."""
    kept = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in kept.splitlines():
        if name.startswith(("tests/", "notebooks/")) or not (REPOSITORY / name).is_file():
            continue
        text = (REPOSITORY / name).read_bytes().decode(errors="replace")
        assert not re.search(r"github\.com/perfkit/|uses: *perfkit/|git\+https?://(?!git\.example/OWNER/)", text), name
        assert not re.search(r"pip install [\"']?perfkit\b(?!-)", text), name


@pytest.mark.parametrize("path", GITHUB, ids=lambda path: path.name)
def test_a_workflow_that_is_not_filled_in_stops_at_once(path, tmp_path):
    (tmp_path / "work").mkdir()
    (job,) = read(path)["jobs"].values()
    done = GitHubJob(tmp_path / "work", {"PATH": os.environ["PATH"]}, {})
    assert not done.carry_out({**job, "steps": job["steps"][:1]})
    assert (done.ran[0].code, done.ran[0].out.split("::")[2].partition(":")[0]) == (
        2,
        "PERFKIT_REPOSITORY is not filled in",
    )
    well = GitHubJob(tmp_path / "work", {"PATH": os.environ["PATH"]}, {}, dict(FILLED))
    assert well.carry_out({**job, "steps": job["steps"][:1]})


@pytest.mark.parametrize("script", ["gitlab", "jenkins"])
def test_other_pipelines_stop_too(script, tmp_path):
    (tmp_path / "work").mkdir()
    steps = "\n".join(read(GITLAB)[".perf"]["before_script"]) if script == "gitlab" else jenkins_scripts()["Install"]
    unfilled = f"perfkit @ git+https://git.example/{UNFILLED}@v0.1.0"
    assert unfilled.partition("@ ")[2] in (GITLAB if script == "gitlab" else JENKINS).read_text(encoding="utf-8")
    done = shell_run(["sh", "-e"], steps, tmp_path / "work", {"PATH": os.environ["PATH"], "PERFKIT": unfilled})
    assert (done.returncode, done.stdout) == (
        2,
        "PERFKIT is not filled in: name the repository that holds your copy of perfkit\n",
    )


# What they do ------------------------------------------------------------------------------------------------------

SERVED = """
[scenario.shop]
locustfile = "locustfile.py"
users = 4
spawn_rate = 4
duration = "3s"
serve = "python service.py {port}"
"""
DEMO = """
[scenario.baseline]
users = 6
spawn_rate = 6
duration = "1s"
"""
SHORT = SERVED.replace("3s", "1s")  # to see that scripts work; whether the verdict is right is tried elsewhere
PACKAGE, UNFILLED = "./.perfkit", "OWNER/REPOSITORY"
FILLED = {UNFILLED: "team/perfkit"}


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return python_with_perfkit(tmp_path_factory.mktemp("machine"))


def project(folder, settings):
    """A small project with a remote, as a CI server checks it out; its working copy is much slower."""
    work = folder / "work"
    work.mkdir(parents=True)
    git(folder, "init", "-q", "--bare", "-b", "main", "origin.git")
    (work / "service.py").write_text(SERVICE.replace("SECONDS", "0.005"))
    (work / "locustfile.py").write_text(LOCUSTFILE)
    (work / "perfkit.toml").write_text(settings)
    (work / ".gitignore").write_text("reports/\ndata/\ntest_execution_metadata.json\n")
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "first"]):
        git(work, *words)
    git(work, "remote", "add", "origin", str(folder / "origin.git"))
    git(work, "push", "-q", "origin", "main")
    git(work, "checkout", "-q", "-b", "slower")
    (work / "service.py").write_text(SERVICE.replace("SECONDS", "0.060"))
    git(work, "commit", "-q", "-am", "slower")
    return work


def cloned(folder, name):
    git(folder, "clone", "-q", str(folder / "origin.git"), name)
    return folder / name


def job_of(name):
    (job,) = read(CI / "github" / name)["jobs"].values()
    return job


def github_context(**more):
    return {"token": TOKEN, "repository": OWNER_AND_NAME, "run_id": "7", **more}


@pytest.mark.slow
@pytest.mark.alone
def test_a_pull_request_is_compared_with_its_target(tmp_path, machine):
    work = project(tmp_path, SERVED)
    event = {"pull_request": {"head": {"repo": {"full_name": OWNER_AND_NAME}}}}
    with github() as server:
        event["number"] = number = server.add_issue(title="A pull request")["number"]
        contexts = {"github": github_context(base_ref="main", event=event)}
        job = GitHubJob(work, {**machine, **server.environment()}, contexts, dict(FILLED))
        assert not job.carry_out(job_of("perf-pull-request.yml"))
        (comment,) = server.said(number)
        assert server.violations == []
    measured, told = job["Measure and judge"], job.contexts["steps"]["perf"]["outputs"]
    assert measured.code == 0, measured.out
    # On a machine that is busy with something else, such short runs are rightly called invalid.
    word, says, row, code = {
        "regression": ("✗ regression", "front got worse", "| ✗ front |", 1),
        "invalid": ("⊘ invalid", "The runs cannot be judged", "The runs cannot be judged", 3),
    }[told["verdict"]]
    assert f"### shop: {word}" in comment
    assert row in comment
    assert re.search(rf"^::error title=perfkit compare shop%3A {word}::{says}", measured.out, re.MULTILINE)
    assert job["Verdict"].code == code
    assert f"# Regression analysis: {word}" in job.page.read_text(encoding="utf-8")
    assert (work / told["report"]).read_text(encoding="utf-8").startswith("<!DOCTYPE html>"), measured.out
    assert junit((work / told["junit"]).read_text(encoding="utf-8"))
    assert job.artifacts == {"perf-report": work / told["folder"]}
    assert len(git(work, "worktree", "list").splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "verdict", "code", "text"),
    [
        ({"scenarios": "shap", "compare-with": "origin/main"}, "failed", 2, "scenario 'shap': not known"),
        ({"scenarios": "shop", "compare-with": "--help"}, "failed", 4, ""),
        ({"scenarios": "shop\n$(touch pwned)", "compare-with": "main"}, "failed", 2, ""),
        (
            {"scenarios": "shop", "compare-with": "main", "options": "--pears=3"},
            "failed",
            2,
            "No such option '--pears'",
        ),
    ],
)
def test_what_goes_wrong_in_the_action_is_never_green(given, verdict, code, text, tmp_path, machine):
    work = project(tmp_path, SERVED)
    job = GitHubJob(work, machine, {"github": github_context()})
    quick = {"install": "none", "self-test": "none", "fail-on": "never"}
    step = {"uses": "./.perfkit", "id": "perf", "with": {**given, **quick}}
    assert not job.carry_out({"steps": [step]})
    told = job.contexts["steps"]["perf"]["outputs"]
    assert (told["verdict"], told["result"], told["report"]) == (verdict, "", "")
    assert text in job["Measure and judge"].out
    assert job["Verdict"].code in (code, 4)
    assert not (work / "pwned").exists()


@pytest.mark.slow
def test_nights_are_judged_against_the_history_on_a_branch(tmp_path, machine):
    mailbox_settings = (
        '[email]\nto = ["ann@example.org"]\nfrom = "perf@example.org"\nhost = "127.0.0.1"\nsecurity = "none"\n'
    )
    with github() as server, mail_server(security="none", login=False) as (_, port):
        load = DEMO.replace("1s", "3s")  # long enough to be judged
        project(tmp_path, f"{load}\n{mailbox_settings}port = {port}\n")
        nights = [_night(cloned(tmp_path, f"night{n}"), machine, server) for n in (1, 2)]
    first, second = nights
    assert first["Judge and report"].code == 3, first["Judge and report"].out
    assert "nothing to compare with" in first["Judge and report"].out
    assert first["Keep the history"].code == 0, first["Keep the history"].out
    assert second["Judge and report"].code in (0, 1, 3), second["Judge and report"].out
    folder = second.workspace / second.contexts["steps"]["report"]["outputs"]["folder"]
    entries = {entry.kind: entry for entry in read_overview(folder).entries}
    assert {"compare", "trend"} <= set(entries)
    assert [len(RunStore(night.workspace / "data" / "runs").ids()) for night in nights] == [3, 6]
    for night in nights:
        assert [night[name].code for name in ("Mail what is new", "Keep issues current")] == [0, 0], night.ran[-2:]
        assert night.artifacts["perf-reports"].name.endswith("-all")
        assert "# Load tests" in night.page.read_text(encoding="utf-8")
    assert server.violations == []


def _night(work, machine, server):
    contexts = {"github": github_context(), "vars": {"PERFKIT_SMTP_HOST": "127.0.0.1"}}
    replaced = {**FILLED, PACKAGE: machine["WHEEL"]}
    job = GitHubJob(work, {**machine, **server.environment()}, contexts, replaced)
    job.carry_out(job_of("perf-nightly.yml"))
    return job


@pytest.mark.slow
def test_nights_are_judged_against_the_history_in_a_bucket(tmp_path, machine, monkeypatch):
    work = project(tmp_path, DEMO.replace("1s", "3s"))  # long enough to be judged
    nightly = job_of("perf-nightly-s3.yml")
    (judged,) = (step for step in nightly["steps"] if step.get("id") == "perf")
    judged["with"]["newest"] = "2"
    with object_store() as keys:
        for name, value in keys.items():
            monkeypatch.setenv(name, value)
        make_bucket("team-perf")
        contexts = {"github": github_context(), "vars": {"PERF_BUCKET": "team-perf", "AWS_DEFAULT_REGION": "us-east-1"}}
        contexts["secrets"] = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        machine = {**machine, "AWS_ENDPOINT_URL": keys["AWS_ENDPOINT_URL"]}
        found = []
        for _ in range(2):
            job = GitHubJob(work, machine, dict(contexts), {**FILLED, f"{PACKAGE}[s3,demo]": machine["WHEEL"]})
            job.carry_out(nightly)
            found.append(job)
        assert len(RunStore("s3://team-perf/runs").ids()) == 4
    told = [job.contexts["steps"]["perf"]["outputs"] for job in found]
    assert found[0]["Verdict"].code == 3, found[0]["Measure and judge"].out
    assert told[0]["verdict"] in ("incomparable", "invalid")  # invalid: on a machine busy with something else
    assert told[1]["verdict"] in ("no_change", "inconclusive", "regression", "improvement", "invalid"), found[1][
        "Measure and judge"
    ].out
    assert (work / told[1]["report"]).name == "index.html"


@pytest.mark.slow
def test_all_notebooks_are_executed_from_the_history(tmp_path, machine):
    work = project(tmp_path, "")
    run_here = [sys.executable, "-m", "perfkit", "store", "sync", str(REPOSITORY / "data" / "samples" / "history")]
    subprocess.run([*run_here, "git+branch://perf-history"], cwd=work, check=True, capture_output=True)
    git(work, "push", "-q", "origin", "perf-history")
    clone = cloned(tmp_path, "clone")
    job = GitHubJob(
        clone, machine, {"github": github_context(), "inputs": {"scenario": ""}}, {**FILLED, PACKAGE: machine["WHEEL"]}
    )
    assert not job.carry_out(job_of("perf-notebooks.yml"))
    assert job["Execute the notebooks"].code == 1, job["Execute the notebooks"].out
    entries = read_overview(clone / job.contexts["steps"]["report"]["outputs"]["folder"]).entries
    assert {entry.kind: entry.word.value for entry in entries} == {
        "compare": "regression",
        "trend": "regression",
        "baseline": "done",
    }


@pytest.mark.slow
def test_gitlab_compares_a_merge_request(tmp_path, machine):
    work = project(tmp_path, SHORT)
    env = {**machine, "PERFKIT": machine["WHEEL"], "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main"}
    done = shell_run(["bash", "-eo", "pipefail"], _gitlab("merge request"), work, env)
    assert done.returncode in (1, 3), done.stdout
    assert f"# Regression analysis: {'✗ regression' if done.returncode == 1 else '⊘ invalid'}" in done.stdout
    assert junit((work / "reports" / "junit.xml").read_text(encoding="utf-8"))
    assert len(list(work.glob("reports/*-compare/report.html"))) == 1


def _gitlab(name):
    """The script of a job as a runner puts it together."""
    document = read(GITLAB)
    job = {**document[".perf"], **document[name]}
    return quick("\n".join(job["before_script"] + job["script"]))


def quick(script):
    """The script without a minute's load of its check, and with one run a night; three are made on GitHub."""
    for words, fewer in (("perfkit check ||", "perfkit check --settings-only ||"), ("--repeat 3", "--repeat 1")):
        assert words in script or "--compare-with" in script
        script = script.replace(words, fewer)
    return script


@pytest.mark.slow
def test_gitlab_judges_the_newest_runs_of_every_night(tmp_path, machine):
    with mail_server(security="none", login=False) as (_, port):
        settings = f'[email]\nto = ["ann@example.org"]\nfrom = "perf@example.org"\nhost = "127.0.0.1"\nport = {port}\n'
        work = project(tmp_path, f'{DEMO}\n{settings}security = "none"\n')
        env = {**machine, "PERFKIT": machine["WHEEL"], "PERF_STORE": "data/history"}
        done = shell_run(["bash", "-eo", "pipefail"], _gitlab("nightly"), work, env)
    assert done.returncode == 3, done.stdout
    assert "nothing to compare with" in done.stdout
    assert junit((work / "reports" / "junit.xml").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_jenkins_does_the_same(tmp_path, machine):
    work = project(tmp_path, SHORT)
    stages = jenkins_scripts()
    assert list(stages) == ["Install", "Compare with main", "Nightly"]
    env = {**machine, "PERFKIT": machine["WHEEL"], "PATH": f"{work / '.venv' / 'bin'}:{machine['PATH']}"}
    codes = [shell_run(["sh", "-xe"], stages[name], work, env) for name in ("Install", "Compare with main")]
    assert codes[0].returncode == 0, codes[0].stdout
    assert codes[1].returncode in (1, 3), codes[1].stdout
    assert junit((work / "reports" / "junit.xml").read_text(encoding="utf-8"))
    (work / "perfkit.toml").write_text(DEMO)
    done = shell_run(["sh", "-xe"], quick(stages["Nightly"]), work, env)
    assert done.returncode == 3, done.stdout  # the first night
