"""Pool of worker processes for parallel jobs: one per device, or several on the CPU."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from src.config import Config, UserError
from src.data.workers import LoaderKilled
from src.machine import cpu_count, exit_with_parent
from src.progress import Progress
from src.training.devices import devices

Job = Callable[..., None]  # job(*arguments, device, report), with report as in `trainer.Report`

_queue: Any = None  # in a worker: the queue for its reports
_device: torch.device | None = None  # in a worker: its device
_thread: ThreadPoolExecutor | None = None  # in a worker: the thread that runs the jobs


def run_in_parallel(job: Job, jobs: list[tuple], config: Config, title: str, total: int) -> None:
    """Run `job(*arguments, device, report)` for every item of `jobs`, in parallel on all devices.

    All reports update one progress bar. The first error ends the other jobs and is raised here. If a process
    is killed (a worker or one of its data loaders), unfinished jobs start again, and folds resume from their
    last checkpoint, `runtime.retries` times in total; after that `UserError` is raised.
    """
    everywhere = devices(config)
    places = everywhere[: len(jobs)]
    starts_cuda = everywhere[0].type == "cuda" and len(everywhere) > 1  # would break CUDA in later forks
    run = _one_by_one if len(places) <= 1 and not starts_cuda else _pooled
    with Progress(title, total) as progress:

        def show(steps=0, note="", line="", last=False, skipped=0) -> None:
            progress.skip(skipped)
            progress.step(steps, note)
            if last or (line and progress.quiet_for_long()):
                progress.say(f"{line}, {progress.remaining()} left")

        left, retries = jobs, config.runtime.retries
        while left := run(job, left, config, places, show):
            if retries == 0:
                raise UserError(
                    "a process was killed (out of memory?); finished folds are kept: lower runtime.jobs, "
                    "runtime.workers or train.batch_size and run the same command again"
                )
            retries -= 1
            show(line=f"a process was killed (out of memory?); {len(left)} job(s) begin again", last=True)


def limit_torch(config: Config, jobs: int) -> None:
    """Limit PyTorch in the calling thread to its share of the cores."""
    torch.set_num_threads(config.runtime.threads or max(1, cpu_count() // jobs))


def _one_by_one(
    job: Job, jobs: list[tuple], config: Config, places: list[torch.device], show: Callable
) -> list[tuple]:
    """Run the jobs in this process; returns those that are unfinished because a data loader was killed."""
    limit_torch(config, 1)
    for number, arguments in enumerate(jobs):
        try:
            job(*arguments, places[0], show)
        except RuntimeError as error:
            if not _was_killed(error):
                raise
            return jobs[number:]
    return []


def _pooled(
    job: Job, jobs: list[tuple], config: Config, places: list[torch.device], show: Callable
) -> list[tuple]:
    """Run the jobs in worker processes; returns those that are unfinished because a process was killed. An
    error of a job ends the others and is raised."""
    start = (
        "fork" if "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin" else "spawn"
    )
    context = multiprocessing.get_context(start)  # fork: imports happen only once
    queue, given = context.SimpleQueue(), context.SimpleQueue()
    places = places[: len(jobs)]
    for place in places:
        given.put(str(place))
    others = set(multiprocessing.active_children())
    sys.stdout.flush()
    shown: Future = Future()  # ends only if a report cannot be shown: closed pipe, full disk
    drain = threading.Thread(target=_drain, args=(queue, show, shown), daemon=True)
    with ProcessPoolExecutor(
        len(places), context, _begin_worker, (queue, given, config, len(places), os.getpid())
    ) as pool:
        futures = [pool.submit(_work, job, arguments) for arguments in jobs]
        drain.start()  # after the fork: threads of the parent do not exist in the child
        try:
            waiting, killed = {*futures, shown}, False
            while waiting != {shown} and not killed:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for error in filter(None, (future.exception() for future in done)):
                    if not _was_killed(error):
                        raise error
                    killed = True
        finally:
            for future in futures:
                future.cancel()
            if not all(future.done() for future in futures):
                # after an error, or an interrupt that only this process received: nobody reads the workers'
                # reports any more, and a worker that writes to a full pipe waits for ever
                for worker in set(multiprocessing.active_children()) - others:
                    worker.kill()
            # in a separate thread: a worker killed while it reported still holds the queue's lock
            threading.Thread(target=queue.put, args=(None,), daemon=True).start()
            drain.join(timeout=5)
    return [arguments for future, arguments in zip(futures, jobs, strict=True) if not _finished(future)]


def _was_killed(error: BaseException) -> bool:
    """Whether an error only means that a process was killed: a worker, or one of its data loaders.

    For a data loader torch may also raise its own error, at any point in the main thread.
    """
    return isinstance(error, BrokenProcessPool | LoaderKilled) or (
        isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")
    )


def _finished(future: Future) -> bool:
    """Whether the job ended without an error."""
    return not future.cancelled() and future.exception() is None


def _drain(queue: Any, show: Callable, shown: Future) -> None:
    """Show the workers' reports. If that fails, keep reading them: a full pipe would block the workers."""
    while (message := queue.get()) is not None:
        if not shown.done():
            try:
                show(**message)
            except Exception as error:
                shown.set_exception(error)


def _begin_worker(queue: Any, given: Any, config: Config, jobs: int, parent: int) -> None:
    """Initialise a worker process: its queue, device and thread."""
    global _queue, _device, _thread
    _queue, _device = queue, torch.device(given.get())
    # A forked process inherits the state of its parent's OpenMP pool without the threads, and GCC's OpenMP
    # would wait for them for ever. The pool belongs to the main thread; another thread gets a new one.
    _thread = ThreadPoolExecutor(1, initializer=limit_torch, initargs=(config, jobs))
    exit_with_parent(parent)


def _work(job: Job, arguments: tuple) -> None:
    """Run one job in the worker's thread."""

    def report(steps=0, **what) -> None:
        _queue.put({"steps": steps, **what})

    try:
        _thread.submit(job, *arguments, _device, report).result()
    except KeyboardInterrupt:  # it reaches only this thread; the other one would go on
        os._exit(130)
    except Exception as error:
        if _is_portable(error):
            raise
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def _is_portable(error: Exception) -> bool:
    """Whether the parent can rebuild the error from its arguments. If it cannot, it would consider the
    pool broken and start the job again."""
    try:
        type(error)(*error.args)
    except Exception:
        return False
    return True
