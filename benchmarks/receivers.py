"""Beats while the receivers of pings and of the webhook hang, beside beats without receivers."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from .bench import say
from .columns import Stand, medians
from .project import load_flows, make_due, run_all_due
from .report import Bar

if TYPE_CHECKING:
    from .bench import Bench

LIMIT = 1.05
WARM_UP = 5
HANGING, NONE = "hanging", "none"


def receivers(bench: Bench) -> None:
    """Measure two servers: the receivers of one accept connections and never answer."""
    idle: dict[str, list[list[float]]] = {HANGING: [], NONE: []}
    busy: dict[str, list[list[float]]] = {HANGING: [], NONE: []}
    with ExitStack() as kept:
        silent = kept.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1_000))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        stands = {
            HANGING: stand(bench, kept, ping_url=url, webhook_url=url),
            NONE: stand(bench, kept),
        }
        for number in range(bench.sizes.rounds):
            for name in stands:
                idle[name].append([])
                busy[name].append([])
            # One by one in turn, so that both have the same slow moments of the machine.
            for _ in range(bench.sizes.requests):
                for name, here in stands.items():
                    idle[name][-1] += here.beats(1)
            for _ in range(bench.sizes.singles):
                for name, here in stands.items():
                    make_due(here.engine, settled=False)
                    seconds = run_all_due(here.server, here.engine, bench.sizes.small)
                    busy[name][-1].append(seconds)
            say(f"round {number + 1} of {bench.sizes.rounds}: beats with receivers that hang")
    for what, found in {
        "idle beat": idle,
        f"beat with {bench.sizes.small} short flows due": busy,
    }.items():
        measured = medians(found)
        text = f"{what} while the receivers of pings and of the webhook hang, beside none"
        bench.report.bars.append(Bar("9", text, LIMIT, measured[HANGING] / measured[NONE]))


def stand(bench: Bench, kept: ExitStack, **settings: str) -> Stand:
    """Serve the project with settings on a database of its own."""
    url = kept.enter_context(bench.database("sqlite"))
    engine = bench.project.migrate(url)
    kept.callback(engine.dispose)
    load_flows(engine, bench.sizes.small)
    here = Stand(kept.enter_context(bench.project.served(url, **settings)), engine)
    here.beats(WARM_UP)
    return here
