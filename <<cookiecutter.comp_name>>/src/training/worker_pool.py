"""Jobs side by side: one process a device, or one a core on CPU, fed from one list of jobs."""

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

Job = Callable[..., None]  # job(*arguments, device, report), with report as `fit.Report` says

_queue: Any = None  # in a worker: where its reports go
_device: torch.device | None = None  # in a worker: the device it was given
_thread: ThreadPoolExecutor | None = None  # in a worker: where it works


def run_in_parallel(job: Job, jobs: list[tuple], config: Config, title: str, total: int) -> None:
    """Run `job(*arguments, device, report)` for every item, as many at a time as there are devices.

    Reports of all jobs move one bar. The first error ends the rest and is raised here. Where a process is
    killed, a worker or one that loads its images, what is not finished begins again (a fold goes on from its
    last checkpoint), `runtime.retries` times in all; then it is said in a sentence.
    """
    everywhere = devices(config)
    places = everywhere[: len(jobs)]
    starts_cuda = everywhere[0].type == "cuda" and len(everywhere) > 1  # here, and no later fork could use it
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
    """Give the calling thread's torch its share of the cores."""
    torch.set_num_threads(config.runtime.threads or max(1, cpu_count() // jobs))


def _one_by_one(
    job: Job, jobs: list[tuple], config: Config, places: list[torch.device], show: Callable
) -> list[tuple]:
    """Run the jobs in this process; gives those that were not finished because a loader was killed."""
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
    """Run the jobs in worker processes; gives those that were not finished because one was killed. A job's
    own error ends the others and is raised."""
    start = (
        "fork" if "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin" else "spawn"
    )
    context = multiprocessing.get_context(start)  # fork: the imports are paid once
    queue, given = context.SimpleQueue(), context.SimpleQueue()
    places = places[: len(jobs)]
    for place in places:
        given.put(str(place))
    others = set(multiprocessing.active_children())
    sys.stdout.flush()
    shown: Future = Future()  # ends only where a report cannot be shown, on a closed pipe or a full disk
    drain = threading.Thread(target=_drain, args=(queue, show, shown), daemon=True)
    with ProcessPoolExecutor(
        len(places), context, _begin_worker, (queue, given, config, len(places), os.getpid())
    ) as pool:
        futures = [pool.submit(_work, job, arguments) for arguments in jobs]
        drain.start()  # after the fork: a thread in the parent would not be there in the child
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
                # after an error, or an interrupt that came to this process alone; nobody will read their
                # reports, and who reports to a full pipe waits for ever
                for worker in set(multiprocessing.active_children()) - others:
                    worker.kill()
            # in a thread of its own: a worker that was killed while it reported took the queue's lock along
            threading.Thread(target=queue.put, args=(None,), daemon=True).start()
            drain.join(timeout=5)
    return [arguments for future, arguments in zip(futures, jobs, strict=True) if not _finished(future)]


def _was_killed(error: BaseException) -> bool:
    """Whether an error only says that a process was killed: a worker, or one that loads its images. Of the
    latter torch may also say so itself, in whatever the main thread is doing."""
    return isinstance(error, BrokenProcessPool | LoaderKilled) or (
        isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")
    )


def _finished(future: Future) -> bool:
    return not future.cancelled() and future.exception() is None


def _drain(queue: Any, show: Callable, shown: Future) -> None:
    """Show what the workers report; when that fails they are still listened to, or the pipe would fill up and
    hold them."""
    while (message := queue.get()) is not None:
        if not shown.done():
            try:
                show(**message)
            except Exception as error:
                shown.set_exception(error)


def _begin_worker(queue: Any, given: Any, config: Config, jobs: int, parent: int) -> None:
    global _queue, _device, _thread
    _queue, _device = queue, torch.device(given.get())
    # A forked process has its parent's pool of OpenMP threads without the threads, and GCC's OpenMP waits for
    # them for ever. The pool is the main thread's; another thread gets one of its own.
    _thread = ThreadPoolExecutor(1, initializer=limit_torch, initargs=(config, jobs))
    exit_with_parent(parent)


def _work(job: Job, arguments: tuple) -> None:
    def report(steps=0, **what) -> None:
        _queue.put({"steps": steps, **what})

    try:
        _thread.submit(job, *arguments, _device, report).result()
    except KeyboardInterrupt:  # it comes to this thread, and the other would work on
        os._exit(130)
    except Exception as error:
        if _is_portable(error):
            raise
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def _is_portable(error: Exception) -> bool:
    """Whether the parent can build the error from its arguments; where it cannot, it would take the pool for
    broken and begin the job again."""
    try:
        type(error)(*error.args)
    except Exception:
        return False
    return True
