"""The loop: one model, one fold, from its first step to its best weights; killed and started again, the same
weights.

Every epoch leaves `checkpoint.pt` (tensors and plain values alone) with all that the next one depends on; it
is dropped once the fold is finished. Data order and augmentation are drawn from (seed, epoch, batch), so they
need no state.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from src.artifacts import Step, atomic, write_csv, write_json
from src.config import Config, UserError
from src.data.levels import as_targets
from src.data.loaders import (
    FoldData,
    Rows,
    evaluation_batches,
    load_fold,
    target_batches,
    training_loader,
    training_rows,
)
from src.losses.build import create_loss, reduce
from src.losses.distillation import distillation
from src.models.build import Architecture, create_model
from src.models.scale import TargetScale
from src.models.sizes import check_sides
from src.models.weights import read_checkpoint, save_model
from src.scoring import finite
from src.steps import Run
from src.tasks import create_task
from src.tasks.base import Task
from src.tracking import create_tracker
from src.training.averaging import Average, copy_state
from src.training.devices import Precision, loader_workers
from src.training.optim import create_optimizer
from src.training.schedule import create_schedule
from src.training.teachers import Teacher

# report(steps, note= for the bar, line= for the log, last= it must be seen, skipped= steps not needed)
Report = Callable[..., None]


@dataclass
class Best:
    """The best epoch so far by the stopping rows."""

    epoch: int = -1
    score: float | None = None
    loss: float = float("inf")
    state: dict[str, torch.Tensor] | None = None


def fit(run: Run, fold: int, step: Step, device: torch.device, report: Report) -> None:
    """Train fold `fold` of a run and write the outputs of its train step."""
    config, task = run.config, create_task(run.config)
    data = load_fold(config, task, fold)
    rows = training_rows(run, task, fold, data)
    trainer = Trainer(config, task, data, rows, fold, device)
    checkpoint = step.folder / "checkpoint.pt"
    trainer.resume(checkpoint, step.fingerprint)
    report(skipped=trainer.epoch * trainer.steps_per_epoch)
    began = time.monotonic()
    tracker = create_tracker(config, run.name, fold)
    for epoch in range(trainer.epoch, config.train.epochs):
        if trainer.exhausted():
            break
        row = trainer.train_epoch(epoch, report)
        tracker.log(row)
        trainer.save(checkpoint, step.fingerprint)
        report(line=f"{run.name} fold {fold} epoch {epoch + 1}/{config.train.epochs}: {_sentence(row)}")
    state = trainer.best.state or copy_state(trainer.average.model)
    trainer.average.model.load_state_dict(state)
    valid, _ = trainer.look_at(data.valid)
    score = task.score(data.valid_truth, valid)
    write_csv(step.folder / "history.csv", pd.DataFrame(trainer.history))
    save_model(step.folder / "model.safetensors", trainer.architecture, state)
    summary = {"metric": task.metric.name, "score": finite(score), "best_epoch": trainer.best.epoch + 1}
    summary |= {
        "epochs": len(trainer.history),
        "train": len(rows),
        "stop": len(data.stop),
        "valid": len(data.valid),
    }
    write_json(step.folder / "score.json", {**summary, "seconds": round(time.monotonic() - began, 1)})
    step.done()
    checkpoint.unlink(missing_ok=True)
    tracker.finish({task.metric.name: score})
    report(
        line=f"{run.name} fold {fold}: {task.metric.name} {score:.4f} on {len(data.valid):,} held-out rows",
        last=True,
        skipped=(config.train.epochs - trainer.epoch) * trainer.steps_per_epoch,
    )


class Trainer:
    """Everything that one fold's training carries from epoch to epoch."""

    def __init__(
        self, config: Config, task: Task, data: FoldData, rows: Rows, fold: int, device: torch.device
    ):
        if len(rows) < 2:
            raise UserError(
                f"fold {fold}: only {len(rows)} row(s) left to learn from; lower cv.n_folds or cv.stop_parts"
            )
        self.config, self.task, self.data, self.device = config, task, data, device
        scale = TargetScale.of(data.train.targets, config.train.target_log) if task.scaled else TargetScale()
        seed = int(np.random.SeedSequence([config.seed, fold]).generate_state(1)[0])
        torch.manual_seed(seed)
        self.architecture = Architecture(
            backbone=config.model.backbone,
            n_outputs=len(data.outputs),
            image_size=config.data.image_size,
            mean=data.store.mean,
            std=data.store.std,
            drop_rate=config.model.drop_rate,
            drop_path_rate=config.model.drop_path_rate,
            target_mean=scale.mean,
            target_std=scale.std,
            target_log=scale.log,
            decoder=config.model.decoder if task.kind == "maps" else None,
            head="cosine" if task.kind == "rankings" else "linear",
            embedding=config.model.embedding if task.kind == "rankings" else None,
        )
        self.rows, self.stop = (
            replace(part, targets=scale.encode(part.targets)) for part in (rows, data.stop)
        )
        weights = read_checkpoint(config.root / config.model.weights) if config.model.weights else None
        self.model = create_model(self.architecture, config.model.pretrained, weights).to(device)
        check_sides(self.model, config.inference.scales or ())  # now, and not after the night
        if config.train.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.precision = Precision(config.train.amp, device)
        workers = loader_workers(config, device)
        self.loader, self.sampler = training_loader(
            self.rows, data.store, config, workers, seed, device.type == "cuda"
        )
        self.steps_per_epoch = -(-len(self.sampler) // config.train.accumulate)
        self.optimizer = create_optimizer(self.model, config.train)
        self.schedule = create_schedule(self.optimizer, config.train, self.steps_per_epoch)
        self.average = Average(self.model, config.train.ema)
        name = config.train.loss or task.default_loss
        self.loss = create_loss(name, config.train, len(data.outputs))
        self.teacher = Teacher(config, fold, self.architecture, device) if config.distill.teacher else None
        self.best = Best()
        self.history: list[dict[str, Any]] = []

    @property
    def epoch(self) -> int:
        """Epochs done so far."""
        return len(self.history)

    def exhausted(self) -> bool:
        """Whether patience has run out."""
        waited = self.epoch - 1 - self.best.epoch
        return (
            self.config.train.early_stopping.enabled
            and self.best.epoch >= 0
            and waited >= self.config.train.early_stopping.patience
        )

    def train_epoch(self, epoch: int, report: Report) -> dict[str, Any]:
        """One pass over the rows, then a look at the stopping rows; gives the row for history.csv."""
        began = time.monotonic()
        self.model.train()
        self.sampler.epoch = epoch
        plan = [float(self.rows.weights[batch].sum()) for batch in self.sampler.batches()]
        accumulate, seen = self.config.train.accumulate, torch.zeros(2, device=self.device)
        for number, (images, targets, weights) in enumerate(self.loader):
            first = number - number % accumulate
            window = sum(plan[first : first + accumulate])  # the last window may be short
            images, targets, weights = (
                x.to(self.device, non_blocking=True) for x in (images, targets, weights)
            )
            with self.precision.autocast():
                losses = self.sample_losses(images, as_targets(targets))
            self.precision.backward(reduce(losses, weights, window))
            seen += torch.stack([(losses.detach() * weights).sum(), weights.sum()])
            if (number + 1) % accumulate == 0 or number + 1 == len(plan):
                self.precision.step(self.optimizer, self.model, self.config.train.clip_grad)
                self.schedule.step()
                self.average.update()
                report(1)
        total, weight = seen.tolist()
        if not np.isfinite(total):
            raise UserError(
                f"epoch {epoch + 1}: the loss is no longer a number; lower train.lr={self.config.train.lr:g} "
                f"to {self.config.train.lr / 10:g}, or set train.clip_grad=1.0"
            )
        row = {"epoch": epoch + 1, "lr": self.schedule.get_last_lr()[0], "train_loss": total / weight}
        row |= self.look(epoch) | {"seconds": round(time.monotonic() - began, 2)}
        self.history.append(row)
        report(note=self.note(row))
        return row

    def sample_losses(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(B,) losses: the label's word, and the teacher's on the same view where there is one."""
        output = self.model(images)
        losses = self.loss(output, targets)
        if self.teacher is None:
            return losses
        distill, kind, said = self.config.distill, self.task.distillation, self.teacher(images)
        if kind == "cosine":
            self.teacher.check_length(said.embedding, output.embedding)
            told = distillation(kind, output.embedding, said.embedding, distill.temperature)
        else:
            wanted = self.model.scale.encode_tensor(said.logits)
            told = distillation(kind, output.logits, wanted, distill.temperature)
        return distill.weight * told + (1 - distill.weight) * losses

    def look(self, epoch: int) -> dict[str, float]:
        """Score the averaged weights on the stopping rows, never on the fold's own; keep them if they are the
        best."""
        if not len(self.stop):
            return {}
        predictions, loss = self.look_at(self.stop)
        score = self.task.score(self.data.stop_truth, predictions)
        metric, best = self.task.metric, self.best
        tie = score == best.score or not np.isfinite(score)  # few rows tie often: the loss decides
        if metric.better(score, best.score) or (tie and loss < best.loss):
            self.best = Best(epoch, score, loss, copy_state(self.average.model))
        return {"stop_loss": loss, f"stop_{metric.name}": score}

    @torch.inference_mode()
    def look_at(self, rows: Rows) -> tuple[Any, float]:
        """The averaged weights' predictions for rows in their order, one plain view each, and their mean
        loss."""
        model, size = self.average.model.eval(), self.config.inference.batch_size
        said, losses = [], []
        images = evaluation_batches(self.data.store, rows.positions, size)
        for batch, wanted in zip(images, target_batches(rows, size), strict=True):
            output = model(batch.to(self.device))
            said.append(self.task.compact(self.task.activate(model.scale.decode(output.logits))))
            losses.append(self.loss(output, as_targets(wanted.to(self.device))).cpu())
        return self.task.gathered(said, self.data.outputs), float(torch.cat(losses).mean())

    def note(self, row: dict[str, Any]) -> str:
        score = row.get(f"stop_{self.task.metric.name}")
        return f"loss {row['train_loss']:.3f}" + (
            "" if score is None else f" {self.task.metric.name} {score:.4f}"
        )

    def save(self, path: Path, fingerprint: str) -> None:
        """Write the checkpoint, atomically."""
        state = {
            "fingerprint": fingerprint,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "best": vars(self.best),
            "history": self.history,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        with atomic(path) as temporary:
            torch.save(state, temporary)

    def resume(self, path: Path, fingerprint: str) -> None:
        """Go on from a checkpoint of the same recipe; one of another recipe is ignored."""
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["fingerprint"] != fingerprint:
            return
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.precision.scaler.load_state_dict(state["scaler"])
        self.best = Best(**state["best"])
        self.history = state["history"]
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)


def _sentence(row: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "epoch")
