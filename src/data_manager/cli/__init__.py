"""The command line: `data-manager COMMAND`.

    run  serve                  the service
    demo                        all of it, played on this machine
    feed  replay                the exchange, or recordings, onto the bus
    query  dead-letters         what is held
    findings                    what was found to be wrong
    audit                       what of it is missing or wrong
    health  alerts              how well each series stands, and what somebody has to be told
    backfill  backfill-jobs     what is missing of the past, fetched
    reconcile                   what is held against what the exchange says
    certify  verify             proofs of what is held
    retain                      what is too old goes
    selftest                    whether faults are found that were put in
    export  import              rows from one store to another
    simulate                    the exchange that tests and demonstrations run on
    config  doctor  migrate     the installation
    version

Every command takes --json. Exit code 0: done; 1: failed; 2: the command line, a setting or a query is wrong; 130:
interrupted. What a command needs is imported when it runs, so that the light ones answer at once.
"""

import sys
from collections.abc import Sequence

import typer

from data_manager.cli.alerts import alerts
from data_manager.cli.audit import audits
from data_manager.cli.backfill import backfills
from data_manager.cli.certify import certificates
from data_manager.cli.demo import demos
from data_manager.cli.feed import feeds
from data_manager.cli.findings import found
from data_manager.cli.health import healths
from data_manager.cli.installation import installation
from data_manager.cli.moving import moving
from data_manager.cli.output import say_error
from data_manager.cli.reconcile import reconciles
from data_manager.cli.retain import retentions
from data_manager.cli.rows import rows
from data_manager.cli.selftest import selftests
from data_manager.cli.service import service
from data_manager.cli.simulate import simulate
from data_manager.domain.errors import DataManagerError

app = typer.Typer(
    name="data-manager",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for part in (
    service,
    demos,
    feeds,
    rows,
    audits,
    healths,
    alerts,
    backfills,
    reconciles,
    certificates,
    retentions,
    selftests,
    found,
    moving,
    installation,
    simulate,
):
    app.add_typer(part)


def main() -> None:
    """Run the command that the process was started with, and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Errors that are ours end as a line on standard error, never as a traceback."""
    try:
        return int(app(list(arguments), standalone_mode=False) or 0)
    except (typer.TyperException, DataManagerError) as error:
        return say_error(error, as_json="--json" in arguments)


@app.callback(invoke_without_command=True)
def _top(context: typer.Context) -> None:
    """Stores market events exactly once and serves them with a true statement of how complete they are."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)
