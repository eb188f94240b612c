"""Teacher cache for knowledge distillation: teacher outputs of images that never change, computed once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from src.config import Config
from src.data.loaders import TrainingBatches
from src.models.output import Output

_MOST = 2**30  # maximum size per fold, in bytes: folds trained in parallel share the host memory
Speaker = Callable[[torch.Tensor], Output]


class TeacherCache:
    """A teacher's logits and embeddings of every training row, kept in host memory.

    They are computed at the first call, for all rows in order and with one batch size, so they do not depend
    on the epoch in which a training was resumed.
    """

    def __init__(self, teacher: Speaker, batches: TrainingBatches, batch_size: int, device: torch.device):
        self.teacher, self.batches, self.size, self.device = teacher, batches, batch_size, device
        self.pages: list[torch.Tensor] | None = None  # logits and embeddings of all rows; empty if too large

    def __call__(self, images: torch.Tensor, rows: np.ndarray) -> Output:
        """Teacher outputs for the rows `rows`, whose images are `images`.

        They come from the cache, or from a forward pass if the cache would exceed `_MOST` bytes.
        """
        if self.pages is None:
            self.pages = self.take()
        if not self.pages:
            return self.teacher(images)
        return Output(*(page[rows].to(self.device, non_blocking=True) for page in self.pages))

    def take(self) -> list[torch.Tensor]:
        """Run the teacher on every training row; an empty list if the outputs would exceed `_MOST` bytes."""
        count, pages = len(self.batches.rows), []
        for start in range(0, count, self.size):
            rows = np.arange(start, min(start + self.size, count))
            images, *_ = self.batches[0, rows]  # the view does not depend on the seed
            said = self.teacher(images.to(self.device))
            if start == 0:
                pages = [
                    x.new_empty((count, *x.shape[1:]), device="cpu") for x in (said.logits, said.embedding)
                ]
                if sum(page.nbytes for page in pages) > _MOST:
                    return []
            for page, answer in zip(pages, (said.logits, said.embedding), strict=True):
                page[start : start + len(rows)] = answer.cpu()
        return pages


def create_teacher_cache(
    config: Config, teacher: Speaker, batches: TrainingBatches, device: torch.device
) -> TeacherCache | None:
    """A `TeacherCache` if the view of an image never changes, else None.

    The view never changes without augmentation and mixing and with one image size.
    """
    if batches.raw or not batches.pipeline.fixed or config.mixing.on or config.augment.scales is not None:
        return None
    return TeacherCache(teacher, batches, config.train.batch_size, device)
