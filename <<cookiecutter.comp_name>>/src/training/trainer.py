"""The training loop: trains one model on one fold, epoch by epoch. Data order and augmentation are drawn
from (seed, epoch, batch) and need no state; everything that has state is in `Trainer.parts`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from src.config import Config, UserError
from src.data.loaders import (
    FoldData,
    TrainingRows,
    evaluation_batches,
    target_batches,
    to_tensor,
    training_loader,
)
from src.data.mask_targets import to_loss_targets
from src.data.mixing import Batch, Mixer
from src.data.multi_scale import create_scales
from src.losses.build import create_loss
from src.losses.reduction import reduce
from src.models.build import create_model, embedding_length
from src.models.checkpointing import checkpoint_gradients
from src.models.scale import TargetScale
from src.models.sizes import check_sizes
from src.models.weights import load_weights, read_checkpoint
from src.reading import decoding
from src.tasks.base import Task
from src.training import checkpoint
from src.training.architecture import create_architecture
from src.training.averaging import Average, StochasticAverage, copy_state
from src.training.batchnorm import update_batch_norms
from src.training.consistency import ConsistencyTraining
from src.training.devices import Precision, compile_network, loader_workers
from src.training.distributed import SINGLE_PROCESS, DistributedModel, World, sync_batchnorm
from src.training.freeze import Freeze
from src.training.loss_monitor import LossMonitor
from src.training.optim import create_optimizer
from src.training.schedule import Schedule
from src.training.snapshots import Snapshots
from src.training.soup import State, greedy_soup
from src.training.teacher_cache import create_teacher_cache
from src.training.teachers import Teachers, distilled_losses

# report(steps, note= for the progress bar, line= for the log, last= always print the line, skipped= steps)
Report = Callable[..., None]


@dataclass
class Best:
    """The best epoch so far, by the score on the early-stopping split."""

    epoch: int = -1
    score: float | None = None
    loss: float = float("inf")
    state: dict[str, torch.Tensor] | None = None


class Trainer:
    """The state of one fold's training: model, data, optimiser, schedule, loss, averages and history."""

    def __init__(
        self,
        config: Config,
        task: Task,
        data: FoldData,
        rows: TrainingRows,
        fold: int,
        device: torch.device,
        start: Path | None = None,  # weights of a finished run, to fine-tune from
        world: World = SINGLE_PROCESS,  # the processes that train this model together (DDP)
    ):
        if len(rows) < 2:
            raise UserError(
                f"fold {fold}: only {len(rows)} row(s) left to learn from; lower cv.n_folds or cv.stop_parts"
            )
        self.config, self.task, self.data, self.device = config, task, data, device
        scale = TargetScale.of(data.train.targets, config.train.target_log) if task.scaled else TargetScale()
        seed = int(np.random.SeedSequence([config.seed, fold]).generate_state(1)[0])
        torch.manual_seed(seed)
        self.architecture = create_architecture(config, task, data, scale)
        self.rows, self.stop = (
            replace(part, targets=scale.encode(part.targets)) for part in (rows, data.stop)
        )
        weights = read_checkpoint(config.root / config.model.weights) if config.model.weights else None
        fetch = config.model.pretrained and start is None
        self.model = create_model(self.architecture, fetch, weights).to(device)
        if start is not None:
            load_weights(self.model, start)
        if config.model.checkpointing:
            checkpoint_gradients(self.model.backbone, config.model.backbone)
        self.scales = create_scales(config, self.model)
        self.augmentation = None
        if config.augment.on_device:
            from src.data.on_device import OnDevice  # lazy: imports albumentations

            self.augmentation = OnDevice(config, data.store.pixels.shape[3])
        check_sizes(self.model, config.inference.scales or (), "inference.scales")  # fail before training
        self.mixing = Mixer(config.mixing, config.train.epochs)
        if world.size > 1:
            self.model = sync_batchnorm(self.model, device)
        self.world, self.seed, self.distributed = world, seed, DistributedModel(self.model, world, device)
        if config.train.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        if config.train.compile:
            compile_network(self.model, device)
        self.precision = Precision(config.train.amp, device)
        workers = loader_workers(config, device)
        self.loader, self.sampler = training_loader(
            self.rows, data.store, config, workers, seed, device.type == "cuda", (world.rank, world.size)
        )
        self.steps_per_epoch = -(-len(self.sampler) // config.train.accumulate)
        self.freeze = Freeze(self.model, config.train)
        self.optimizer = create_optimizer(self.model, config.train)
        self.schedule = Schedule(self.optimizer, config.train, self.steps_per_epoch, task.metric.sign)
        self.average = Average(self.model, config.train.ema)
        swa = config.train.swa.start is not None
        self.swa = StochasticAverage(self.model, config.train) if swa else None
        length = embedding_length(self.model) if config.train.center_weight else 0
        loss = create_loss(task.name, config.train, data.outputs, data.train.targets, length)
        self.loss = loss.to(device)
        self.teacher, self.teacher_cache = None, None
        if config.distill.teachers:
            self.teacher = Teachers(config, task.distillation, fold, self.architecture, device)
            self.teacher_cache = create_teacher_cache(config, self.teacher, self.loader.dataset, device)
        self.consistency = None
        if config.consistency is not None:
            self.consistency = ConsistencyTraining(
                config, task, data.store, self.average, self.precision, len(self.sampler), seed
            )
        self.best = Best()
        self.history: list[dict[str, Any]] = []
        self.begun: dict[str, Any] = {}  # the epoch in progress: batches done, start time, LossMonitor
        self.resumed: dict[str, Any] = {}  # the same from a mid-epoch checkpoint, as state dicts

    @property
    def epoch(self) -> int:
        """Number of completed epochs."""
        return len(self.history)

    @property
    def steps(self) -> int:
        """Number of optimiser steps done so far."""
        within = (self.begun or self.resumed).get("batches", 0) // self.config.train.accumulate
        return self.epoch * self.steps_per_epoch + within

    @property
    def stop_scores(self) -> list[float]:
        """The score on the early-stopping split after each epoch; empty if there is no such split."""
        key = f"stop_{self.task.metric.name}"
        return [row[key] for row in self.history if key in row]

    def should_stop(self) -> bool:
        """Early stopping: whether the best epoch is `train.early_stopping.patience` epochs old."""
        waited = self.epoch - 1 - self.best.epoch
        train = self.config.train
        return train.ends_early and self.best.epoch >= 0 and waited >= train.early_stopping.patience

    def train_epoch(
        self, epoch: int, report: Report, between: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """Train one epoch, or the rest of a resumed one, then validate on the early-stopping split;
        returns the row for history.csv. `between` is called after every optimiser step but the last and
        may save a checkpoint."""
        begun, self.resumed = self.resumed or {"batches": 0, "seconds": 0.0}, {}
        began, done = time.monotonic() - begun["seconds"], begun["batches"]
        self.freeze.apply(epoch)
        self.distributed.begin()
        if self.world.size > 1:  # one seed per rank: dropout must differ; a checkpoint holds rank 0's RNG
            words = np.random.SeedSequence([self.seed, epoch, self.world.rank])
            torch.manual_seed(int(words.generate_state(1)[0]))
        self.sampler.epoch, self.sampler.first = epoch, done
        whole = self.sampler.batches()
        plan = [float(self.rows.weights[batch].sum()) for batch in whole]
        batches = [batch[self.sampler.mine(len(batch))] for batch in whole]
        watch = LossMonitor(epoch, batches, self.ids, self.config.train, self.device, self.world)
        accumulate = self.config.train.accumulate
        if done:
            watch.load_state_dict(begun["watch"])
        if self.consistency is not None:
            self.consistency.begin(epoch, begun.get("consistency"))
        for number, batch in enumerate(self.loader, done):
            first = number - number % accumulate
            total = sum(plan[first : first + accumulate])  # the last accumulation window may be short
            images, targets, weights = self.prepare_batch(batch, epoch, number)
            due = (number + 1) % accumulate == 0 or number + 1 == len(plan)
            with self.distributed.unless(due):
                with self.precision.autocast():
                    losses = self.sample_losses(images, targets, batches[number])
                loss = reduce(losses, weights, total, self.config.train.top_share)
                self.precision.backward(loss * self.world.size)  # DDP averages gradients over the ranks
            watch.batch(losses, weights)
            if self.consistency is not None:
                self.consistency.learn(window=min(accumulate, len(plan) - first))
            if due:
                watch.step(self.precision.step(self.optimizer, self.model, self.config.train.clip_grad))
                self.schedule.step()
                self.average.update()
                report(1)
                if number + 1 < len(plan):
                    self.begun = {"batches": number + 1, "began": began, "watch": watch}
                    between()
        self.begun = {}
        row = {"epoch": epoch + 1, "lr": self.schedule.rate, **watch.means()}
        if self.consistency is not None:
            row |= self.consistency.means()
        if self.swa is not None:
            self.swa.take(self.model, epoch)
        row |= self.look(epoch) | {"seconds": round(time.monotonic() - began, 2)}
        self.history.append(row)
        report(note=self.note(row))
        return row

    def prepare_batch(self, batch: Batch, epoch: int, number: int) -> Batch:
        """Images, targets and weights of a batch on the device: augmented, resized (multi-scale), mixed."""
        images, targets, weights = (x.to(self.device, non_blocking=True) for x in batch)
        seed = self.sampler.seed_of(number)
        if self.augmentation is not None:
            images, targets = self.augmentation(images, targets, seed, self.sampler.part_of(number))
        images, targets = self.scales(images, to_loss_targets(targets), seed)
        return self.mixing(images, targets, weights, epoch, seed)

    def sample_losses(
        self, images: torch.Tensor, targets: torch.Tensor, rows: np.ndarray | None = None
    ) -> torch.Tensor:
        """Per-sample losses (B,): the supervised loss, plus the distillation loss if there is a teacher.
        With `rows`, cached teacher outputs are used instead of a forward pass of the teacher."""
        output = (self.model if self.world.size == 1 else self.distributed)(images)
        losses = self.loss(output, targets)
        if self.teacher is None:
            return losses
        noted = self.teacher_cache is not None and rows is not None
        said = self.teacher_cache(images, rows) if noted else self.teacher(images)
        settings, kind = self.config.distill, self.task.distillation
        return distilled_losses(settings, kind, self.model.scale, losses, output.fused(), said)

    def look(self, epoch: int) -> dict[str, float]:
        """Validate: score the averaged weights on the early-stopping split, never on the held-out fold,
        and keep them if they are the best so far. Returns the columns for history.csv."""
        if not len(self.stop):
            return {}
        predictions, loss = self.evaluate(self.stop)
        score = self.task.score(self.data.stop_truth, predictions)
        metric, best = self.task.metric, self.best
        undefined = best.score is None or not np.isfinite(best.score)
        tie = score == best.score or (undefined and not np.isfinite(score))  # few rows: use loss
        if metric.better(score, best.score) or (tie and loss < best.loss):
            self.best = Best(epoch, score, loss, copy_state(self.average.model))
        if np.isfinite(score):
            self.schedule.look(score)
        return {"stop_loss": loss, f"stop_{metric.name}": score}

    @torch.inference_mode()
    def evaluate(self, rows: TrainingRows) -> tuple[Any, float]:
        """Predictions of the averaged weights for `rows`, in order and without TTA, and the mean loss."""
        model, size = self.average.model.eval(), self.config.inference.batch_size
        rows, said, losses = rows.part(self.world.part(len(rows))), [], []  # each rank a part, no padding
        images = evaluation_batches(self.data.store, rows.positions, size)
        for batch, wanted in zip(images, target_batches(rows, size), strict=True):
            output = model(batch.to(self.device))
            said.append(self.task.compact(self.task.activate(model.scale.decode(output.logits))))
            losses.append(self.loss(output, to_loss_targets(wanted.to(self.device))).cpu())
        parts = self.world.gather((said, torch.cat(losses) if losses else torch.empty(0)))
        said, losses = [one for part, _ in parts for one in part], torch.cat([part for _, part in parts])
        return self.task.gathered(said, self.data.outputs), float(losses.mean())

    def note(self, row: dict[str, Any]) -> str:
        """A short text with the training loss and the early-stopping score, for the progress bar."""
        score = row.get(f"stop_{self.task.metric.name}")
        return f"loss {row['train_loss']:.3f}" + (
            "" if score is None else f" {self.task.metric.name} {score:.4f}"
        )

    def final_state(self, snapshots: Snapshots) -> tuple[State, str]:
        """The weights to keep and a description of them: the SWA average, a model soup, the best epoch, or
        the last epoch if there is no early-stopping split."""
        if self.swa is not None:
            self.measure(self.swa.model)
            return copy_state(self.swa.model), f"SWA of epochs {sorted(self.swa.ends)}"
        if self.config.train.soup is not None:
            epochs, states = snapshots.read(self.epoch)
            state, chosen = greedy_soup(states, self.score_soup)
            return state, f"soup of epochs {sorted(epochs[i] for i in chosen)}"
        if self.best.state is None:
            return copy_state(self.average.model), f"epoch {self.epoch}"
        return self.best.state, f"epoch {self.best.epoch + 1}"

    def score_soup(self, state: State) -> tuple[tuple[float, float], State]:
        """Score weights on the early-stopping split, for a greedy soup: the rank (score, then loss; higher
        is better) and the weights with batch-norm statistics recomputed."""
        model = self.average.model
        model.load_state_dict(state)
        self.measure(model)
        predictions, loss = self.evaluate(self.stop)
        score = self.task.score(self.data.stop_truth, predictions)
        rank = self.task.metric.sign * score if np.isfinite(score) else -np.inf
        return (rank, -loss if np.isfinite(loss) else -np.inf), copy_state(model)

    def measure(self, model: nn.Module) -> None:
        """Recompute batch-norm statistics (`update_bn`) on the unaugmented images of epoch 0's batches."""
        self.sampler.epoch = 0
        store, positions = self.data.store, self.rows.positions
        images = (to_tensor(store.look(positions[rows])).to(self.device) for rows in self.sampler.batches())
        update_batch_norms(model, images, self.freeze.norms)

    def ids(self, rows: np.ndarray) -> list[str]:
        """The ids of the training rows `rows`, as in the tables."""
        store = self.data.store
        pairs = ((store.train, store.train_ids), (store.test, store.test_ids), (store.extra, store.extra_ids))
        names = {place: name for places, ids in pairs for place, name in zip(places, ids, strict=True)}
        return [names[position] for position in self.rows.positions[rows]]

    @property
    def parts(self) -> dict[str, checkpoint.Stateful]:
        """Everything with a state of its own that changes during training, for the checkpoint."""
        parts = {"model": self.model, "average": self.average, "loss": self.loss}
        parts |= {"optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.precision.scaler}
        return parts if self.swa is None else parts | {"swa": self.swa}

    def save(self, path: Path, fingerprint: str) -> None:
        """Write a checkpoint atomically, between two epochs or within one."""
        values = {"best": vars(self.best), "history": self.history, "begun": {}}
        if self.begun:
            seconds, watch = time.monotonic() - self.begun["began"], self.begun["watch"].state_dict()
            values["begun"] = {"batches": self.begun["batches"], "seconds": seconds, "watch": watch}
            if self.consistency is not None:
                values["begun"]["consistency"] = self.consistency.state_dict()
        checkpoint.save(path, fingerprint, self.parts, values, self.device)

    def resume(self, path: Path, fingerprint: str) -> None:
        """Resume from a checkpoint, if there is one. Raises `Unreadable` as `checkpoint.resume` does."""
        values = checkpoint.resume(path, fingerprint, self.parts, self.device)
        if values is None:
            return
        with decoding(path):
            self.best, self.history = Best(**values["best"]), list(values["history"])
            self.resumed = dict(values["begun"])
