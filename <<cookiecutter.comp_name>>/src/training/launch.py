"""Folds side by side: one process a device, or one a core on CPU, fed from one list of folds."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from src.artifacts import write_yaml
from src.config import Config, UserError
from src.data.loaders import create_epochs, load_fold, training_rows
from src.progress import Progress
from src.steps import Run, train_step
from src.tasks import create_task
from src.tracking import prepare
from src.training.devices import devices
from src.training.fold import train_fold
from src.training.world import is_one_of_several, join

Job = Callable[..., None]  # job(*arguments, device, report), with report as `fit.Report` says

_queue: Any = None  # in a worker: where its reports go
_device: torch.device | None = None  # in a worker: the device it was given
_thread: ThreadPoolExecutor | None = None  # in a worker: where it works


def train_run(run: Run, folds: tuple[int, ...]) -> None:
    """Train the given folds of a run, those that are not up to date: side by side, or where torchrun started
    this process beside others one after the other, each by all of them."""
    if is_one_of_several():
        _train_together(run, folds)
        return
    steps = {fold: train_step(run, fold) for fold in folds}
    todo = [fold for fold in folds if not steps[fold].fresh()]
    for fold in sorted(set(folds) - set(todo)):
        print(steps[fold].up_to_date_line())
    if not todo:
        return
    for fold in todo:
        if steps[fold].why():
            print(f"{steps[fold].title}: {'; '.join(steps[fold].why())}")
    todo = [fold for fold in todo if steps[fold].begin()]  # the earlier settings may have been set aside
    write_yaml(run.folder / "config.yaml", {**run.config.settings(), "name": run.name})
    prepare(run.config)
    jobs = [(run, fold, steps[fold]) for fold in todo]
    side_by_side(train_fold, jobs, run.config, f"02 train {run.name}", total_steps(run, todo))
    draw_run(run)


def _train_together(run: Run, folds: tuple[int, ...]) -> None:
    world, device = join(run.config)
    steps = {fold: train_step(run, fold) for fold in folds}
    todo: list[int] = []
    if world.first:
        todo = [fold for fold in folds if steps[fold].begin()]
        write_yaml(run.folder / "config.yaml", {**run.config.settings(), "name": run.name})
    todo = world.gather(todo)[0]
    _limit_torch(run.config, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    with Progress(f"02 train {run.name}", total_steps(run, todo) if world.first else 1) as progress:

        def show(steps=0, note="", line="", last=False, skipped=0) -> None:
            if world.first:
                progress.skip(skipped)
                progress.step(steps, note)
                if last or (line and progress.quiet_for_long()):
                    progress.say(f"{line}, {progress.remaining()} left")

        for fold in todo:
            train_fold(run, fold, steps[fold], device, show, world)
            world.gather(None)  # finished, by all
    if world.first:
        draw_run(run)


def draw_run(run: Run) -> None:
    """Draw the learning curves of the folds there are."""
    import pandas as pd

    from src.report.pictures import draw_curves

    paths = {fold: run.fold_folder(fold) / "history.csv" for fold in range(run.config.cv.n_folds)}
    histories = {fold: pd.read_csv(path) for fold, path in paths.items() if path.exists()}
    draw_curves(run.folder / "curves.png", histories)


def total_steps(run: Run, folds: list[int]) -> int:
    """Optimiser steps that the folds will take at most, for the progress bar."""
    config, task, total = run.config, create_task(run.config), 0
    for fold in folds:
        rows = training_rows(run, task, fold, load_fold(config, task, fold))
        total += -(-len(create_epochs(rows, config, 0)) // config.train.accumulate) * config.train.epochs
    return total


def side_by_side(job: Job, jobs: list[tuple], config: Config, title: str, total: int) -> None:
    """Run `job(*arguments, device, report)` for every item, as many at a time as there are devices.

    Reports of all jobs move one bar. The first error ends the rest and is raised here. Where a worker is
    killed its job is run again; when that has happened too often it is said in a sentence, and the same
    command goes on with the jobs that are not finished.
    """
    everywhere = devices(config)
    places = everywhere[: len(jobs)]
    starts_cuda = everywhere[0].type == "cuda" and len(everywhere) > 1  # here, and no later fork could use it
    with Progress(title, total) as progress:

        def show(steps=0, note="", line="", last=False, skipped=0) -> None:
            progress.skip(skipped)
            progress.step(steps, note)
            if last or (line and progress.quiet_for_long()):
                progress.say(f"{line}, {progress.remaining()} left")

        if len(places) <= 1 and not starts_cuda:
            _limit_torch(config, 1)
            for arguments in jobs:
                job(*arguments, places[0], show)
            return
        _pooled(job, jobs, config, places, show)


def _pooled(job: Job, jobs: list[tuple], config: Config, places: list[torch.device], show: Callable) -> None:
    """Run the jobs in worker processes. Where a worker is killed, what it and those beside it were at is
    begun again (a fold goes on from its last epoch), `runtime.retries` times in all."""
    left, retries = jobs, config.runtime.retries
    while left := _one_pool(job, left, config, places[: len(left)], show):
        if retries == 0:
            raise UserError(
                "a worker was killed (out of memory?); finished folds are kept: "
                "lower runtime.jobs or train.batch_size and run the same command again"
            )
        retries -= 1
        show(line=f"a worker was killed (out of memory?); {len(left)} job(s) begin again", last=True)


def _one_pool(
    job: Job, jobs: list[tuple], config: Config, places: list[torch.device], show: Callable
) -> list[tuple]:
    """Run the jobs; gives those that were not finished because a worker was killed. A job's own error ends
    the others and is raised."""
    start = (
        "fork" if "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin" else "spawn"
    )
    context = multiprocessing.get_context(start)  # fork: the imports, five seconds of them, are paid once
    queue, given = context.SimpleQueue(), context.SimpleQueue()
    for place in places:
        given.put(str(place))
    others = set(multiprocessing.active_children())
    sys.stdout.flush()
    drain = threading.Thread(target=_drain, args=(queue, show), daemon=True)
    with ProcessPoolExecutor(
        len(places), context, _begin_worker, (queue, given, config, len(places), os.getpid())
    ) as pool:
        futures = [pool.submit(_work, job, arguments) for arguments in jobs]
        drain.start()  # after the fork: a thread in the parent would not be there in the child
        try:
            waiting, killed = set(futures), False
            while waiting and not killed:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    if isinstance(error := future.exception(), BrokenProcessPool):
                        killed = True
                    elif error is not None:
                        raise error
        except KeyboardInterrupt:  # it may have come to this process alone
            for worker in set(multiprocessing.active_children()) - others:
                worker.kill()
            raise
        finally:
            for future in futures:
                future.cancel()
            # in a thread of its own: a worker that was killed while it reported took the queue's lock along
            threading.Thread(target=queue.put, args=(None,), daemon=True).start()
            drain.join(timeout=5)
    return [arguments for future, arguments in zip(futures, jobs, strict=True) if not _finished(future)]


def _finished(future: Future) -> bool:
    return not future.cancelled() and future.exception() is None


def _drain(queue: Any, show: Callable) -> None:
    while (message := queue.get()) is not None:
        show(**message)


def _begin_worker(queue: Any, given: Any, config: Config, jobs: int, parent: int) -> None:
    global _queue, _device, _thread
    _queue, _device = queue, torch.device(given.get())
    # A forked process has its parent's pool of OpenMP threads without the threads, and GCC's OpenMP waits for
    # them for ever. The pool is the main thread's; another thread gets one of its own.
    _thread = ThreadPoolExecutor(1, initializer=_limit_torch, initargs=(config, jobs))
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    """End this worker when its parent is gone: a killed stage must leave nobody behind who writes on."""
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(1)


def _work(job: Job, arguments: tuple) -> None:
    def report(steps=0, **what) -> None:
        _queue.put({"steps": steps, **what})

    try:
        _thread.submit(job, *arguments, _device, report).result()
    except KeyboardInterrupt:  # it comes to this thread, and the other would work on
        os._exit(130)


def _limit_torch(config: Config, jobs: int) -> None:
    from src.machine import cpu_count

    torch.set_num_threads(config.runtime.threads or max(1, cpu_count() // jobs))
