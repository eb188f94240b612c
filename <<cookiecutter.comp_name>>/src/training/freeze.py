"""Freezing of backbone parameters: permanently (stages, batch norms), or for the first epochs."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.config import Train, UserError
from src.models.stages import stages


class Freeze:
    """Freeze backbone parameters: some permanently, the others until `train.freeze_epochs`.

    The new head is trained first and the backbone later (LP-FT: Kumar et al. 2022, Fine-Tuning can Distort
    Pretrained Features). The optimiser sees no gradient of the backbone before that, so its moments start at
    zero when the backbone is unfrozen.
    """

    def __init__(self, model: nn.Module, settings: Train):
        self.model, self.epochs = model, settings.freeze_epochs or 0
        self.never = never_trained(model.backbone, settings)
        self.apply(self.epochs)

    @property
    def norms(self) -> set[str]:
        """Names of the layers with permanently frozen parameters, whose batch norms keep their statistics."""
        return {f"backbone.{name.rpartition('.')[0]}" for name in self.never}

    def apply(self, epoch: int) -> None:
        """Set `requires_grad` for this epoch (0-based), and training mode for all layers not fully frozen.

        A frozen batch norm in training mode would still update its running statistics.
        """
        for name, parameter in self.model.backbone.named_parameters():
            parameter.requires_grad_(epoch >= self.epochs and name not in self.never)
        self.model.train()
        for module in self.model.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()


def never_trained(backbone: nn.Module, settings: Train) -> set[str]:
    """Names of the permanently frozen backbone parameters: the first `train.freeze_stages` stages, and all
    batch norms with `train.freeze_bn`. Raises `UserError` if the backbone has fewer stages."""
    names: set[str] = set()
    if settings.freeze_stages is not None:
        depths = stages(backbone)
        if settings.freeze_stages > len(depths):
            raise UserError(
                f"train.freeze_stages={settings.freeze_stages}: the backbone has {len(depths)} stages, the "
                f"stem among them; a good value is 1 to {len(depths) - 1}"
            )
        names |= {name for stage in depths[: settings.freeze_stages] for name in stage}
    if settings.freeze_bn:
        for place, module in backbone.named_modules():
            if isinstance(module, _BatchNorm):
                names |= {f"{place}.{name}" for name, _ in module.named_parameters()}
    return names
