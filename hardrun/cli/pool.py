"""``hardrun pool``: sandboxes that wait for ``hardrun exec --pool``."""

from __future__ import annotations

import signal
import threading
from typing import Any

import click

from hardrun.cli.options import workload_options
from hardrun.errors import BadInput


@click.command("pool")
@workload_options
@click.option("--size", type=int, metavar="NUMBER", default=4, show_default=True,
              help="How many wait.")
@click.argument("socket", metavar="SOCKET")
def command(socket: str, size: int, **options: Any) -> int:
    """Keep sandboxes set up, each waiting for one command of hardrun exec --pool SOCKET.

    Each is used once and made anew. It ends, and all that waits with it, on SIGINT or SIGTERM.
    """
    from hardrun.executor import named
    from hardrun.pool import Pool
    from hardrun.request import SERVED, Standing, decide
    from hardrun.workload.flags import LIMITS

    for flag in ("interactive", "terminal"):
        if options[flag]:
            raise BadInput(f"--{flag}: sandboxes of a pool have no terminal",
                           hint="hardrun run -t for a command that needs one")
    limits = {name: text for name, (flag, _) in LIMITS.items()
              if (text := options.pop(flag[2:].replace("-", "_"))) is not None}
    policies = options.pop("policy")
    request = decide([SERVED], policies=policies, limits=limits, **options)
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: over.set())
    listener = named.Listener(path=socket)
    try:
        with Pool.of(Standing(request, policies), size) as pool:
            threading.Thread(target=listener.serve, args=(pool.lend,), daemon=True).start()
            over.wait()
    finally:
        listener.close()
    return 0
