"""``perfkit demo``."""

from __future__ import annotations

from pathlib import Path

import click

from perfkit.cli.options import INJECT, Number, console

EXIT_INVALID, EXIT_NOT_SHOWN = 3, 4


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
@click.option("--reports", type=click.Path(path_type=Path, file_okay=False), default=Path("reports"), show_default=True)
def demo(serve: bool, inject: tuple[str, ...], slower: float, store: str, reports: Path) -> int:
    """Load three small services for real, slow one of them down, and find it.

    Five baseline and three candidate runs, interleaved, about two minutes.  Ends 0 when the injected change, and only
    it, was found; 3 when the runs cannot be judged; 4 when something else was found.

    \b
    Examples:
      perfkit demo --slower 10
      perfkit demo --serve --inject rag_service:tail_pct=2,tail_factor=3 --inject api_gateway:error_rate_pct=5
    """
    from perfkit import demo as story
    from perfkit.model import Verdict

    if serve:
        return _serve(inject)
    if inject:
        raise click.UsageError("--inject goes with --serve; without it, --slower says what is injected")
    found = story.run_demo(slower, store, reports, tell=click.echo)
    from perfkit.render.terminal import print_comparison

    print_comparison(found.comparison, console())
    click.echo(f"\ninjected: api_gateway {slower:+g} % service time")
    click.echo(f"found:    {found.summary}")
    click.echo(f"report:   {found.report}")
    if found.as_injected:
        return 0
    return EXIT_INVALID if found.comparison.verdict is Verdict.INVALID else EXIT_NOT_SHOWN


def _serve(inject: tuple[str, ...]) -> int:
    from perfkit.load.service_model import parse_changes
    from perfkit.load.services import start_services

    with start_services(parse_changes(inject)) as services:
        for name, address in services.addresses.items():
            click.echo(f"{name} {address}/{name}")
        click.echo("Ctrl-C ends them.", err=True)
        services.wait()
    return 0
