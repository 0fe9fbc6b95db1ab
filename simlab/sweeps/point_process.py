"""The process of one point: `python -m MODULE`, which ends when whoever started it is gone.

    python point_process.py LOCKFILE MODULE ARGUMENTS

It holds the point's lock as long as it lives. When its standard input ends, so when the parent has
died, it kills its children (a notebook's kernel) and itself. A file to be run by its path: it
imports nothing of simlab, and so starts quickly.
"""

import os
import runpy
import sys
import threading

# Without this line a grammar of jsonschema's takes 2.4 s of every start.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # "this module can't be imported"
del sys.path[0]  # this file's folder: its neighbours are no modules of that name

import filelock  # noqa: E402  # after the line above
import psutil  # noqa: E402  # after the line above


def end_with_parent() -> None:
    """Wait until standard input ends; then kill the children and this process."""
    os.read(0, 1)
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(1)


def main() -> None:
    """Take the lock and run the module."""
    lock = filelock.FileLock(sys.argv.pop(1))
    lock.acquire(timeout=30)
    threading.Thread(target=end_with_parent, daemon=True).start()
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
