"""Where the points of a sweep run: here, on Dask's workers, or wherever a printed line is run.

A launcher is a context: what it needs is checked when it is entered, before the sweep writes
anything. It yields a function of the unfinished tasks. `slurm` has one more.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from simlab.runs import write_json

from .gpus import Dealer, deal, visible_gpus
from .point import Processes, Task, run_point, shell_command, versions

Launch = Callable[[list[Task]], None]
Launcher = contextlib.AbstractContextManager[Launch]
SECONDS_FOR_A_SCHEDULER = 10
SECONDS_FOR_A_WORKER = 600  # to import torch from a slow disk


@contextlib.contextmanager
def printed() -> Iterator[Launch]:
    """Start nothing: print shell commands, one a line."""

    def launch(tasks: list[Task]) -> None:
        for task in tasks:
            print(shell_command(task))

    yield launch


@contextlib.contextmanager
def here(jobs: int, threads: int) -> Iterator[Launch]:
    """Run `jobs` points at once in processes of this machine; when stopped, end them all."""
    processes = Processes()
    hands = deal(jobs, visible_gpus())
    dealer = Dealer(hands)
    executor = ThreadPoolExecutor(jobs)  # a thread waits for each process

    def run(task: Task) -> dict[str, Any]:
        with dealer.with_gpu(task) as task_with_gpu:
            return run_point(task_with_gpu, processes)

    def launch(tasks: list[Task]) -> None:
        gpus = sorted({gpu for gpu in hands if gpu})
        where = f", on GPU {', '.join(gpus)}" if gpus else ""
        say(f"{jobs} at once with {threads} thread(s) each{where}")
        run_all(executor, run, tasks)

    try:
        yield launch
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        processes.stop()
        executor.shutdown(wait=True)


@contextlib.contextmanager
def on_dask(scheduler: Any) -> Iterator[Launch]:
    """Run points on the workers of a Dask scheduler, as many at once as they have threads.

    Args:
        scheduler: Its address, a Client (which stays open) or a Cluster.

    Raises:
        ImportError: Dask is missing.
        RuntimeError: Nobody answers at the address, or a worker lacks simlab or has another one.
    """
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise ImportError("scheduler= needs Dask: pip install 'dask[distributed]'") from error
    with contextlib.ExitStack() as stack:
        client = scheduler
        if not isinstance(scheduler, Client):
            try:
                client = stack.enter_context(Client(scheduler, timeout=SECONDS_FOR_A_SCHEDULER))
            except (OSError, ValueError, TypeError) as error:
                raise RuntimeError(
                    f"no Dask scheduler answers at {scheduler!r}: expected an address like "
                    f"tcp://host:8786 ({error})"
                ) from None
        _check_workers(client)
        yield lambda tasks: run_all(client.get_executor(pure=False), run_point, tasks)


def _check_workers(client: Any) -> None:
    """Compare the versions of the workers that are there already with those of this process."""
    wanted = versions()
    workers = list(client.nthreads())
    if not workers:
        say("the scheduler has no workers yet: the points wait for them")
    # not by client.run: while torch is imported a worker would answer nobody, and be given up
    answers = {w: client.submit(versions, workers=[w], pure=False) for w in workers}
    for worker, future in answers.items():
        answer = future.exception(timeout=SECONDS_FOR_A_WORKER) or future.result()
        if answer != wanted:
            raise RuntimeError(f"the worker {worker} answers {answer!r}: expected {wanted}")


def run_all(executor: Executor, run: Callable[[Task], dict[str, Any]], tasks: list[Task]) -> None:
    """Run the tasks with a bar; a failed one is named."""
    futures: dict[Future[dict[str, Any]], Task] = {
        executor.submit(run, task): task for task in tasks
    }
    with tqdm(total=len(tasks)) as bar:
        for future in as_completed(futures):
            status = _status_of(future, futures[future])
            bar.update()
            if status["status"] == "failed":
                bar.write(f"failed: {status['error']}", sys.stderr)


def _status_of(future: Future[dict[str, Any]], task: Task) -> dict[str, Any]:
    """Return a point's status; where its worker died, write one that says so."""
    error = future.exception()
    if error is None:
        return future.result()
    status = {"status": "failed", "error": repr(error)}
    write_json(Path(task.folder, "status.json"), status)
    return status


def say(line: str) -> None:
    """Write a line to standard error: standard output is the table's, or the commands'."""
    print(line, file=sys.stderr, flush=True)
