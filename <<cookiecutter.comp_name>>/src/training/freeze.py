"""What stays as it was pretrained: for good, or until the head has settled."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.config import Train, UserError
from src.models.stages import stages


class Freeze:
    """Which parameters of a network never move, and which do so from `train.freeze_epochs` on.

    The new head first, the rest later: Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features. Until
    then the optimiser has seen no gradient of the backbone, so its moments start fresh with the thaw.
    """

    def __init__(self, model: nn.Module, settings: Train):
        self.model, self.epochs = model, settings.freeze_epochs or 0
        self.never = never_trained(model.backbone, settings)
        self.apply(self.epochs)

    @property
    def norms(self) -> set[str]:
        """Names of the network's layers whose parameters never move: batch norms among them keep their
        statistics."""
        return {f"backbone.{name.rpartition('.')[0]}" for name in self.never}

    def apply(self, epoch: int) -> None:
        """Let the parameters move that do so in this epoch (0 first), and put all layers in training mode,
        but for those whose parameters are all frozen.

        A frozen batch norm in training mode would keep its weights and still move its statistics.
        """
        for name, parameter in self.model.backbone.named_parameters():
            parameter.requires_grad_(epoch >= self.epochs and name not in self.never)
        self.model.train()
        for module in self.model.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()


def never_trained(backbone: nn.Module, settings: Train) -> set[str]:
    """Names of the backbone's parameters in its first `train.freeze_stages` stages, and of its batch norms
    with `train.freeze_bn`."""
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
