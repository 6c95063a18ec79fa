"""The command `heartbeat beat` with the option `--every`."""

import json
import logging
import socket
import threading

import click

from ... import members
from ...cli.application import application, config_option
from ...cli.beat import beat as one_beat
from ...cli.output import json_option
from ...durations import parse_every
from ...errors import InputError, ScheduleError
from ...events import BeatReport
from ...stopping import exit_in_order, stop_on_signals
from .rhythm import Scheduler


@click.command()
@config_option
@json_option
@click.option(
    "--every",
    metavar="INTERVAL",
    help='Go on beating in this rhythm, such as "1m", until SIGTERM or Ctrl-C.',
)
@click.pass_context
def beat(context: click.Context, config: str, *, as_json: bool, every: str | None) -> None:
    """Run all flows that are due, in this process, and wait for them.

    The exit code is 1 if a run failed.

    With --every it is a scheduler: it beats until it is stopped, and prints a line for each beat
    that found something due. Runs that take longer than the interval, or than heartbeat.wait, go on
    while it beats. Any number of schedulers may do so, on any number of machines: no slot runs
    twice.
    """
    if every is None:
        context.invoke(one_beat, config=config, as_json=as_json)
        return
    interval = _parse_interval(every)
    with application(config) as heartbeat:
        # Does nothing where the .ini file has set up logging.
        logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
        heartbeat.log_start()
        stop_requested = stop_on_signals()
        source = f"command line scheduler on {socket.gethostname()}"
        scheduler = Scheduler(heartbeat, source, interval, stop_requested)
        show = _print_members if as_json else Printer().print_report
        # Not on this thread, which waits for signals.
        beats = threading.Thread(target=scheduler.work, args=[show], name="heartbeat-scheduler")
        beats.daemon = True
        beats.start()
        # Not for ever: a wait would not notice an interruption by `_thread.interrupt_main`, as that
        # of a reloader which was killed.
        while not stop_requested.wait(1.0):
            pass
        exit_in_order(beats.join)


def _parse_interval(every: str) -> int:
    try:
        return parse_every(every)
    except ScheduleError as error:
        raise InputError({"--every": [str(error)]}) from error


def _print_members(report: BeatReport) -> None:
    click.echo(json.dumps(members.BeatMembers.model_validate(report), default=members.as_json))


class Printer:
    """Prints the first beat, and each later one that found or did something."""

    def __init__(self) -> None:
        self._is_first = True

    def print_report(self, report: BeatReport) -> None:
        """Print a beat in one line, or nothing."""
        found = _counts(report)
        if found or self._is_first:
            click.echo(f"{report.timestamp:%H:%M:%S} UTC: {found or 'nothing due'}")
        self._is_first = False


def _counts(report: BeatReport) -> str:
    """Return the counts that are not zero, in words."""
    counts = {
        "due": report.flows_due,
        "succeeded": report.flows_succeeded,
        "failed": report.flows_failed,
        "in progress": report.flows_in_progress,
        "reaped": report.runs_reaped,
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)
