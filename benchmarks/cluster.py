"""swupd-server with the workers of a dask scheduler of its own: python -m benchmarks.cluster WORKERS [WORD]..."""

from __future__ import annotations

import sys

from distributed import LocalCluster

from swupd.server.cli import main


def run() -> int:
    """Starts a scheduler and workers of one thread each, passes the command on, ends them."""
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=int(sys.argv[1]), threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        return main([*sys.argv[2:], "--scheduler", cluster.scheduler_address])


if __name__ == "__main__":
    sys.exit(run())
