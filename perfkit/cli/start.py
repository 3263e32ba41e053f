"""``perfkit init``, ``lab`` and ``demo``: first steps."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import click

from perfkit.cli.exit_codes import EXIT_INVALID
from perfkit.cli.options import FILE, FOLDER, INJECT, Number, console, say, warn
from perfkit.config.policy import Policy
from perfkit.config.settings import BUILT_IN, nearest_settings
from perfkit.model.errors import LoadError, MissingExtra, PerfkitError, ReadError, SettingsError, StoreError, refusals
from perfkit.model.installation import extra_advice
from perfkit.model.records import Comparison, Run, Verdict
from perfkit.report.formatting import count_text

SETTINGS_TEXT = """# What perfkit runs and how it judges.  Each key is explained by: perfkit docs configuration

store = "data/runs"

[scenario.shop]
locustfile = "locustfile.py"
host = "http://127.0.0.1:8000"
users = 20
spawn_rate = 20
duration = "2m"
# serve = "python app.py {port}"   # starts a build of the service, for --compare-with HEAD~1

[policy]
# alpha = 0.01                # chance that a comparison of identical builds calls any regression

[policy.tolerance]            # the largest worsening you accept; these are the defaults of the rule "evidence"
# avg_latency_ms = 5          # percent of the baseline
# p95_latency_ms = 10
# error_rate_pct = 0.5        # percentage points
"""


@click.command(short_help="Write a perfkit.toml and a locustfile to start from.")
@click.argument("folder", type=FOLDER, default=Path())
@click.option("--host", metavar="URL", help="The service to load, such as http://127.0.0.1:8000.")
@click.option("--openapi", metavar="FILE|URL", help="Ask for the operations of this OpenAPI 3 document, JSON or YAML.")
@click.option("--urls", type=FILE, help="Ask for the addresses or paths in this file, one a line.")
def init(folder: Path, host: str | None, openapi: str | None, urls: Path | None) -> int:
    """Write perfkit.toml and locustfile.py into FOLDER (this one by default).  Files that exist are left alone.

    With --host, --openapi or --urls, the locustfile is of that service: each path is asked once, and what does not
    answer well stands there as a comment, as do operations that need a value nobody gave, or may change something.
    Addresses with a user, a password or a token are refused: they would stand in files.

    Exit codes: 2 locustfile.py exists already, or an address or document is unusable, and nothing was written; 4 the
    files were written and the host does not answer, or a document could not be fetched.

    \b
    Examples:
      perfkit init --host http://127.0.0.1:8000
      perfkit init --openapi http://127.0.0.1:8000/openapi.json
      perfkit init shop-load --openapi api.yaml --host http://127.0.0.1:8000
      perfkit init --urls urls.txt
    """
    from perfkit.loadgen import locustfile

    if openapi is not None and urls is not None:
        raise click.UsageError("--openapi and --urls both say what to ask for: give one of them")
    endpoints: tuple[locustfile.Endpoint, ...] = (locustfile.Endpoint("/"),)
    base = locustfile.read_host(host) if host is not None else None
    is_of_service = (host, openapi, urls) != (None, None, None)
    if is_of_service and (folder / "locustfile.py").exists():
        raise SettingsError(
            f"{folder / 'locustfile.py'}: exists, and is left alone; name another folder: perfkit init FOLDER ..."
        )
    if openapi is not None:
        is_address = openapi.startswith(("http://", "https://"))
        text = locustfile.fetch(openapi) if is_address else _read(Path(openapi))
        base, endpoints = locustfile.read_openapi(text, base, openapi)
    elif urls is not None:
        base, endpoints = locustfile.read_urls(_read(urls), base, str(urls))
    tasks = [item for item in endpoints if not item.todo]
    todos = [item for item in endpoints if item.todo]
    left_out = len(tasks[locustfile.MOST_TASKS :]) + len(todos[locustfile.MOST_TASKS :])
    tasks = tasks[: locustfile.MOST_TASKS]
    answers = []
    for answer in locustfile.ask(base, tasks) if base is not None else ():
        answers.append(answer)
        status = answer.problem if answer.status is None else str(answer.status)
        say(f"{status if answer.is_reached else '-'} {answer.endpoint.label}")
    tasks = list(locustfile.after_answers(tasks, answers))
    written = [*tasks, *todos[: locustfile.MOST_TASKS]]

    settings = SETTINGS_TEXT if base is None else SETTINGS_TEXT.replace('"http://127.0.0.1:8000"', json.dumps(base))
    is_new = {}
    for name, text in (("perfkit.toml", settings), ("locustfile.py", locustfile.locustfile_text(written))):
        file = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8") as handle:
                handle.write(text)
        except FileExistsError:
            click.echo(f"{file} exists, left alone")
            continue
        except OSError as error:
            raise StoreError(f"{file}: cannot be written: {error.strerror}") from error
        is_new[name] = True
        commented = sum(bool(item.todo) for item in written)
        counts = f": {count_text(len(written) - commented, 'task')}" + (
            f", {commented} more as comment{'s' if commented > 1 else ''}" if commented else ""
        )
        click.echo(f"wrote {file}{counts if name == 'locustfile.py' and is_of_service else ''}")
    if left_out:
        warn(f"{count_text(left_out, 'operation')} more left out: a file has at most {locustfile.MOST_TASKS} tasks")
    command = ["perfkit", "run", "shop"]
    if "perfkit.toml" not in is_new and base is not None:  # other settings are in force
        command += ["--locustfile", "locustfile.py", "--host", base, "--users", "20", "--duration", "2m"]
    steps = [f"cd {shlex.quote(str(folder))}"] if folder != Path() else []
    following = " && ".join([*steps, shlex.join(command)])
    unreached = next((answer for answer in answers if not answer.is_reached), None)
    if unreached is not None:
        say(f"Next: start the service, then {following}")
        raise LoadError(f"{base}: {unreached.problem}; the files are written, and nothing is lost")
    if all(item.todo for item in written):
        say(f"Next: make a task of a comment in {folder / 'locustfile.py'}, then {following}")
    else:
        say(f"Next: {following}")
    if answers and not any(item.status is not None and item.status < 400 for item in answers):
        raise LoadError(f"{base}: no path answers well; correct the paths in {folder / 'locustfile.py'}")
    return 0


def _read(file: Path) -> str:
    with refusals(f"{file}: cannot be read", ReadError):
        return file.read_text("utf-8-sig", "replace")


# JupyterLab in the process of this command, so that signals reach it; its failures end in 4, as any other step's do
JUPYTERLAB = """
import runpy, sys, traceback
try:
    runpy.run_module("jupyterlab", run_name="__main__", alter_sys=True)
except SystemExit as end:
    if isinstance(end.code, str):
        sys.stderr.write(end.code + "\\n")
    sys.exit(4 if end.code else 0)
except Exception:
    traceback.print_exc()
    sys.exit(4)
"""


@click.command(short_help="Open the notebooks in JupyterLab.", context_settings={"ignore_unknown_options": True})
@click.option(
    "--folder",
    type=FOLDER,
    default=Path("notebooks"),
    show_default=True,
    help="The notebooks; perfkit's own are copied there when it has none.",
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF JUPYTERLAB]...")
def lab(folder: Path, options: tuple[str, ...]) -> None:
    """Open the notebooks in JupyterLab, to look further than a report does.

    Everything else is handed on to JupyterLab, which takes the place of this command.  When it fails, the exit
    code is 4.

    \b
    Examples:
      perfkit lab
      perfkit lab --folder investigations/checkout --no-browser --port 8899
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise MissingExtra(f"JupyterLab is not installed; {extra_advice('lab')}")
    if not any(folder.glob("*.ipynb")):
        from perfkit.report.notebook import NOTEBOOKS, find_notebook

        with refusals(f"{folder}: cannot be written"):
            folder.mkdir(parents=True, exist_ok=True)
            for kind in NOTEBOOKS:
                shutil.copy(find_notebook(kind), folder)
        click.echo(f"copied {', '.join(f'{kind}.ipynb' for kind in NOTEBOOKS)} to {folder}", err=True)
    _say_whether_there_are_runs()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-c", JUPYTERLAB, str(folder), *options])


def _say_whether_there_are_runs() -> None:
    """One sentence and the next command where the notebooks have no runs of one's own to show."""
    from perfkit.runs.store import RunStore

    try:
        settings = nearest_settings(Path.cwd())
        store = RunStore(settings.store)
        if not len(store):
            first = "" if settings.own_scenarios else "perfkit init, then "
            name = next(iter(settings.own_scenarios), "shop")
            click.echo(f"{store.url} has no runs for the notebooks yet.  Next: {first}perfkit run {name}", err=True)
    except PerfkitError as error:  # the notebooks say so too; JupyterLab opens all the same
        click.echo(f"the notebooks will not find your runs: {error}", err=True)


# The demo; interleaved, so that a machine that drifts does so for both sides alike
ORDER = ("baseline", "candidate", "baseline", "candidate", "baseline", "candidate", "baseline", "baseline")
SECONDS, USERS = 10.0, 50
INJECTED = "api_gateway"
EXIT_NOT_SHOWN = 4


@click.command(short_help="See the whole chain at work, on this machine.")
@click.option("--serve", is_flag=True, help="Run just the demo services and print their addresses, until Ctrl-C.")
@INJECT
@click.option(
    "--slower",
    type=Number(-90, 1000),
    default=20.0,
    show_default=True,
    help="Percent that is injected into api_gateway.",
)
@click.option("--store", default="data/runs", show_default=True, help="Where the runs are kept.")
@click.option("--reports", type=FOLDER, default=Path("reports"), show_default=True)
def demo(serve: bool, inject: tuple[str, ...], slower: float, store: str, reports: Path) -> int:
    """Load three small services for real, slow one of them down, and find it.

    Five baseline and three candidate runs, interleaved, about two minutes.  Ends 0 when the injected change, and only
    it, was found; 3 when the runs cannot be judged; 4 when something else was found.

    \b
    Examples:
      perfkit demo --slower 10
      perfkit demo --serve --inject rag_service:tail_pct=2,tail_factor=3 --inject api_gateway:error_rate_pct=5
    """
    from perfkit.loadgen.demo_services import parse_changes, start_services

    if serve:
        with start_services(parse_changes(inject)) as services:
            for name, address in services.addresses.items():
                click.echo(f"{name} {address}/{name}")
            click.echo("Ctrl-C ends them.", err=True)
            services.wait()
        return 0
    if inject:
        raise click.UsageError("--inject goes with --serve; without it, --slower says what is injected")
    from perfkit.report.notebook import run_report
    from perfkit.report.text import print_comparison

    comparison = _measured(slower, store)
    parameters: dict[str, object] = {"title": f"Demo: did {INJECTED} get slower? ({slower:+g} % injected)"}
    for name in ("baseline", "candidate"):
        runs = getattr(comparison, name).runs
        parameters[name] = "\n".join(str(Path(run.source or run.id).resolve()) for run in runs)
    report = run_report("compare", parameters, reports_dir=reports, progress=click.echo)
    print_comparison(comparison, console())
    claims = [f for f in comparison.findings if f.verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT)]
    changed = tuple(dict.fromkeys(finding.service for finding in claims))
    expected = Verdict.REGRESSION if slower > 0 else Verdict.IMPROVEMENT
    is_shown = changed == (INJECTED,) and expected in {finding.verdict for finding in claims}
    is_as_injected = comparison.verdict is not Verdict.INVALID and (is_shown if slower else not changed)
    judgement = "as injected, and nothing else" if is_as_injected else "not what was injected"
    click.echo(f"\ninjected: {INJECTED} {slower:+g} % service time")
    click.echo(f"found:    {', '.join(changed) or 'nothing'} ({judgement})")
    click.echo(f"report:   {report.html}")
    if is_as_injected:
        return 0
    return EXIT_INVALID if comparison.verdict is Verdict.INVALID else EXIT_NOT_SHOWN


def _measured(slower_pct: float, store: str) -> Comparison:
    """Five baseline and three candidate runs, compared."""
    from perfkit.analysis.compare import judge
    from perfkit.loadgen.demo_services import Change, start_services
    from perfkit.loadgen.run import run_scenario, with_demo_addresses
    from perfkit.loadgen.service_under_test import revision_of
    from perfkit.runs.store import RunStore

    scenario = replace(
        BUILT_IN["baseline"],
        name="demo",
        users=USERS,
        spawn_rate=USERS,
        duration_s=SECONDS,
        environment={"PERFKIT_DEMO_WEIGHTS": "api_gateway=2,rag_service=1,mcp_server=1"},
        revision=revision_of(Path.cwd()).to_dict(),
    )
    sides: dict[str, list[Run]] = {"baseline": [], "candidate": []}
    changes = {INJECTED: Change(slower_pct=slower_pct)}
    with start_services(seed=1) as before, start_services(changes, seed=2) as after:
        targets = {"baseline": before.addresses, "candidate": after.addresses}
        for number, side in enumerate(ORDER, 1):
            click.echo(f"run {number} of {len(ORDER)}: {side}, {USERS} users for {SECONDS:.0f} s")
            run = run_scenario(with_demo_addresses(scenario, targets[side]), RunStore(store), {"side": side})
            sides[side].append(run)
    return judge(sides["baseline"], sides["candidate"], Policy())
