"""Load from a container: built from this very perfkit, run for real, gone afterwards; clear words where none can be."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest
from generator_load import own_problems
from loopback import serving
from packaging.requirements import Requirement
from samples import REPOSITORY

from perfkit import read_run
from perfkit.cli import main
from perfkit.loadgen import container
from perfkit.loadgen.container import (
    Container,
    Engine,
    check_mountable,
    container_name,
    find_engine,
    prepare_container,
)
from perfkit.model.errors import LoadError

LOCUSTFILE = """
from locust import FastHttpUser, constant, task

class Caller(FastHttpUser):
    wait_time = constant(0.02)

    @task
    def call(self):
        self.client.get("/front", name="front")
"""
PARTS = ("podman", "buildah", "debootstrap")
ENGINE_SETTINGS = """[engine]
runtime = "{runtime}"
tmp_dir = "{folder}/tmp"
lock_type = "file"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"""
STORAGE_SETTINGS = '[storage]\ndriver = "overlay"\ngraphroot = "{0}/images"\nrunroot = "{0}/run"\n'


def did(*words, **more):
    """Run a command to its end; a failure shows what it said."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=900, **more)
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def base():
    """A base image with Python and, as there may be no mirror to ask, the wheels that the Dockerfile names."""
    missing = [name for name in PARTS if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        pytest.skip(
            f"no image can be built: {', '.join(missing) or 'debootstrap'} {'is not here' if missing else 'needs root'}"
        )
    with (
        tempfile.TemporaryDirectory(prefix="perfkit-container-", ignore_cleanup_errors=True) as name,
        pytest.MonkeyPatch.context() as patch,
    ):
        folder = Path(name)
        runtime = next((name for name in ("runc", "crun") if shutil.which(name)), "runc")
        (folder / "containers.conf").write_text(ENGINE_SETTINGS.format(runtime=runtime, folder=folder))
        (folder / "storage.conf").write_text(STORAGE_SETTINGS.format(folder))
        patch.setenv("CONTAINERS_CONF", str(folder / "containers.conf"))
        patch.setenv("CONTAINERS_STORAGE_CONF", str(folder / "storage.conf"))
        patch.setenv("BUILDAH_ISOLATION", "chroot")
        root = folder / "root"
        packages = "--include=python3,python3-venv,ca-certificates"
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", packages, "bookworm", root],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            pytest.skip(f"debootstrap made no base (no mirror of Debian?): {made.stdout[-300:]}")
        pip = [getattr(sys, "_base_executable", sys.executable), "-m", "pip", "download", "-q", "-d", root / "wheels"]
        target = [
            "--python-version",
            "3.11",
            "--only-binary=:all:",
            "-r",
            REPOSITORY / "docker" / "requirements-locust.txt",
            "hatchling",
        ]
        if subprocess.run([*pip, *target], capture_output=True, check=False).returncode:
            pytest.skip("the pinned packages cannot be downloaded (no mirror of PyPI?)")
        did("tar", "-C", root, "-cf", folder / "root.tar", ".")
        shutil.rmtree(root)
        did("podman", "import", "-q", folder / "root.tar", "localhost/base:test")
        (folder / "root.tar").unlink()
        yield ("BASE=localhost/base:test", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/wheels")
        subprocess.run(["podman", "system", "reset", "--force"], capture_output=True, check=False)


@pytest.fixture(scope="module")
def image(base):
    """The image that `perfkit run --docker` builds, and what it told meanwhile."""
    notes = []
    prepared = prepare_container("podman", None, base, notes.append)
    assert len(notes) == 1
    assert prepare_container("podman", None, base, notes.append) == prepared
    assert len(notes) == 1, "it was built twice"
    return prepared


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a locustfile, to start from."""
    (tmp_path / "locustfile.py").write_text(LOCUSTFILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_image_makes_load_by_itself_as_nobody(image, here):
    """As in Kubernetes: perfkit is the entry point, what it needs is inside, and only /results and /tmp are written."""
    did("buildah", "from", "--name", "made", image.image)
    try:
        settings = did("buildah", "inspect", "--format", "{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}", "made")
        assert settings == "10001:10001 [perfkit]"
        here.chmod(0o777)  # for uid 10001
        run = ["buildah", "run", "--isolation", "chroot", "--volume", f"{here}:/work", "made", "--"]
        assert did(*run, "id", "-u") == "10001"
        assert "FastHttpUser" in did(*run, "python", "-c", "from locust import FastHttpUser; print(FastHttpUser)")
        with serving() as server:
            load = ["--live", "--host", server.url, "--users", "2", "--duration", "3s", "--store", "/work/runs"]
            did(*run, "perfkit", "run", "shop", "--locustfile", "locustfile.py", *load)
        (folder,) = (here / "runs").iterdir()
        assert len(read_run(folder).requests()) == server.answered["/front"] > 50
    finally:
        did("buildah", "rm", "made")


@pytest.fixture
def runs_containers(image):
    """Skips where the engine builds images but the kernel lets it start no container."""
    tried = subprocess.run(
        ["podman", "run", "--rm", "--network", "host", "--entrypoint", "true", image.image],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"podman builds images here but cannot start a container: {tried.stderr[-300:]}")
    return image


def contained(base, server, *more):
    """The command line of a run in a container."""
    words = [
        "run",
        "shop",
        "--locustfile",
        "locustfile.py",
        "--host",
        server.url,
        "--docker",
        "--engine",
        "podman",
    ]
    return [sys.executable, "-m", "perfkit", *words, *(part for text in base for part in ("--build-arg", text)), *more]


@pytest.mark.slow
def test_a_run_in_a_container_is_a_run_like_any_other(base, runs_containers, here):
    for number, more in enumerate((["--users", "2"], ["--rate", "40/s"], ["--users", "2", "--workers", "2"])):
        with serving() as server:
            words = contained(base, server, *more, "--duration", "3s", "--store", str(number))
            done = subprocess.run(words, capture_output=True, text=True, timeout=300)
        assert done.returncode in (0, 3), done.stderr  # 3: of a busy machine, see below
        (folder,) = Path(str(number)).iterdir()
        run = read_run(folder)
        assert len(run.requests()) == server.answered["/front"] > 50
        assert own_problems(run) == set()
        assert run.environment["container"] == "podman"
        assert run.versions["image"].startswith(runs_containers.image)
        assert folder.stat().st_uid == (folder / "requests.parquet").stat().st_uid == os.getuid()
    assert did("podman", "ps", "--all", "--quiet") == ""


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured_and_leaves_no_container(base, runs_containers, here):
    with serving() as server:
        process = subprocess.Popen(
            contained(base, server, "--users", "2", "--duration", "120s"), stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline().startswith("shop")  # the load is on
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        process.stdout.close()
    (folder,) = Path("data/runs").iterdir()
    run = read_run(folder)
    assert own_problems(run) == {"interrupted"}
    assert len(run.requests()) > 0
    assert did("podman", "ps", "--all", "--quiet") == ""


@pytest.mark.slow
def test_a_container_whose_caller_was_killed_ends_by_itself(base, runs_containers, here):
    with serving() as server:
        process = subprocess.Popen(
            contained(base, server, "--users", "2", "--duration", "600s"), stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline().startswith("shop")
        process.kill()
        process.wait()
        process.stdout.close()
        (folder,) = Path("data/runs").iterdir()
        subprocess.run(["podman", "wait", container_name(folder)], capture_output=True, check=False, timeout=60)
    run = read_run(folder)
    assert not run.validity.ok
    assert len(run.requests()) > 0


@pytest.mark.slow
def test_a_locustfile_that_cannot_be_loaded_in_the_container_is_told(base, runs_containers, here):
    (here / "locustfile.py").write_text("import pandas_of_mine\n" + LOCUSTFILE)
    with serving() as server:
        done = subprocess.run(
            contained(base, server, "--users", "2", "--duration", "3s"), capture_output=True, text=True, check=False
        )
    assert done.returncode == 4
    assert "pandas_of_mine" in done.stderr
    assert did("podman", "ps", "--all", "--quiet") == ""


def test_without_an_engine_the_error_names_the_alternatives(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["run", "baseline", "--docker"], sys.stdout, sys.stderr) == 4
    said = capsys.readouterr().err
    for words in ("docker is not installed", "podman is not installed", "run without --docker", "--workers"):
        assert words in said
    assert not (tmp_path / "data").exists()


def engine_that(folder, script, name="docker"):
    """An engine whose client is a shell script."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_an_engine_that_does_not_answer_is_passed_over_and_named(tmp_path, monkeypatch):
    engine_that(tmp_path, 'echo "Cannot connect to the daemon." >&2; exit 1')
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LoadError, match=r"docker does not work \(Cannot connect to the daemon\)"):
        find_engine()
    engine_that(tmp_path, 'if [ "$1" = info ]; then echo true; else echo podman version 5; fi', "podman")
    assert find_engine() == Engine(str(tmp_path / "podman"), "podman", True)
    with pytest.raises(LoadError, match="docker does not work"):
        find_engine("docker")


def test_a_failed_build_says_what_the_engine_said_and_the_way_out(tmp_path, monkeypatch):
    engine_that(tmp_path, 'case "$1" in build|pull) echo "no route to registry" >&2; exit 125;; image) exit 1;; esac')
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LoadError, match=r"(?s)no route to registry.*--build-arg BASE=") as told:
        prepare_container()
    assert "--image" in str(told.value)
    with pytest.raises(LoadError, match="cannot be pulled"):
        prepare_container(image="registry.example/perfkit")
    with pytest.raises(LoadError, match="is not a name of an image"):
        prepare_container(image="--privileged")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--engine", "podman"], "--engine needs --docker"),
        (["--image", "x"], "--image needs --docker"),
        (["--docker", "--build-arg", "BASE"], "expected KEY=VALUE"),
        (["--docker", "--image", "x", "--build-arg", "A=b"], "has no effect with --image"),
        (["--docker", "--worker"], "--docker does not go with --worker"),
        (["--worker", "--repeat", "3"], "--repeat does not go with --worker: the master keeps the run"),
        (["--worker", "--label", "build=1"], "--label does not go with --worker"),
        (["--master-host", "10.0.0.5"], "--master-host needs --worker"),
        (["--workers", "2", "--master-bind-port", "1"], "--master-bind-port needs --master"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "baseline", *words], sys.stdout, sys.stderr) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["docker", "podman"])
@pytest.mark.parametrize("is_rootless", [False, True])
def test_engines_know_the_options_they_are_given(kind, is_rootless, tmp_path):
    if shutil.which(kind) is None:
        pytest.skip(f"{kind} is not here to be asked for its options")
    argv = Container(Engine(kind, kind, is_rootless), "image").argv("name", tmp_path, tmp_path)
    known = did(kind, "run", "--help")
    for option in {word.partition("=")[0] for word in argv[: argv.index("image")] if word.startswith("--")}:
        assert re.search(rf"{option}\b", known), f"{kind} run has no {option}"


def test_secrets_of_a_scenario_stand_on_no_command_line(tmp_path):
    argv = Container(Engine("docker", "docker", False), "image").argv("name", tmp_path, tmp_path)
    assert not [word for word in argv if word in ("-e", "--env") or "PERFKIT_" in word]


@pytest.mark.parametrize("sign", [",", '"', "\n"])
def test_a_path_that_an_engine_would_take_apart_is_refused(sign):
    with pytest.raises(LoadError, match="Rename it"):
        check_mountable(Path(f"/tmp/a{sign}b"))


def test_what_ends_before_locust_is_told_apart_from_locusts_own_end(tmp_path):
    mine = Container(Engine("docker", "docker", False), "mine")
    assert mine.startup_failure(tmp_path, 1, "Traceback: in the locustfile") is None
    assert "an older perfkit is in it" in mine.startup_failure(tmp_path, 0, "")
    assert "perfkit 0.0.1" in mine.startup_failure(
        tmp_path, 1, "perfkit: the image has perfkit 0.0.1, its caller 0.1.0"
    )
    assert "no such file" in mine.startup_failure(tmp_path, 127, "Error: crun: no such file")


def test_pinned_versions_lie_within_the_bounds_of_the_project():
    lines = (REPOSITORY / "docker" / "requirements-locust.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    bounds = {wanted.name: wanted.specifier for wanted in map(Requirement, project["dependencies"])}
    for name in pins.keys() & bounds:
        assert bounds[name].contains(pins[name]), name
    assert {"locust", "pyarrow", "click"} <= pins.keys()


@pytest.mark.slow
def test_what_a_load_test_imports_of_the_projects_dependencies_is_pinned_in_the_image():
    """The image has perfkit without its dependencies: what is missing there ends each load before it begins."""
    script = (
        "import sys, importlib.metadata as metadata; before = set(sys.modules)\n"
        "import perfkit.cli.run, perfkit.loadgen.run, perfkit.runs.store, perfkit.model.redaction\n"
        "import perfkit.report.run_summary, rich.table\n"  # its end
        "from perfkit.report.live import LivePage; from perfkit.report.html import inlined, render\n"  # run --live
        "inlined(render('live_page.html.j2', nonce=''))\n"
        "tops = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(*{part for top in tops for part in metadata.packages_distributions().get(top, ())})"
    )
    imported = {name.lower() for name in did(sys.executable, "-c", script).split()}
    lines = (REPOSITORY / "docker" / "requirements-locust.txt").read_text().splitlines()
    pinned = {line.split("==")[0] for line in lines if not line.startswith("#")}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    needed = imported & {Requirement(text).name.lower() for text in project["dependencies"]}
    assert {"click", "css-inline", "jinja2", "msgspec", "pyarrow"} <= needed <= pinned


def test_an_image_is_built_from_the_checkout_or_the_wheel_that_runs_here(tmp_path, monkeypatch):
    with container.build_context() as (context, package):
        assert (context, package) == (REPOSITORY, ".")
        name = container.image_name(context, ())
        assert name == container.image_name(context, ())
        assert name != container.image_name(context, ("BASE=x",))
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == set(container.SOURCES)
    installed = tmp_path / "site-packages" / "perfkit"
    (installed / "docker").mkdir(parents=True)
    (installed / "docker" / "Dockerfile.locust").write_text("FROM x")
    wheel = tmp_path / "perfkit-1-py3-none-any.whl"
    monkeypatch.setattr(container, "PACKAGE", installed)
    monkeypatch.setattr(container, "installation_source", lambda: wheel)
    with pytest.raises(LoadError, match=r"\(.*whl is gone\)\. Build one in a clone"), container.build_context():
        pass
    names = set()
    for content in (b"one", b"two"):
        wheel.write_bytes(content)
        with container.build_context() as (context, package):
            assert package == f"dist/{wheel.name}"
            assert (context / package).read_bytes() == content
            assert (context / container.DOCKERFILE).read_text() == "FROM x"
            names.add(container.image_name(context, ()))
    assert len(names) == 2
    monkeypatch.setattr(container, "installation_source", lambda: None)
    with pytest.raises(LoadError, match="no image can be built here"), container.build_context():
        pass
