"""bequest: get more out of models that are already pre-trained.

The public names are imported when they are first used, so that `import bequest` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME_OF = {
    "BequestError": "bequest.errors",
    "ExponentialMovingAverage": "bequest.averaging.recipes",
    "FlowTrainer": "bequest.training.flow_trainer",
    "LatestWeightAverage": "bequest.averaging.recipes",
    "StochasticWeightAverage": "bequest.averaging.recipes",
    "WeightAverages": "bequest.averaging.live",
    "WeightAveragingCallback": "bequest.training.averaging_callback",
    "WeightedTrainer": "bequest.training.weighted_trainer",
    "average_checkpoints": "bequest.averaging.average",
    "diagnose": "bequest.inheritance.diagnose",
    "evaluate": "bequest.evaluation.evaluate",
    "flow_weights": "bequest.weighting.schemes",
    "grow": "bequest.inheritance.grow",
    "inherit": "bequest.inheritance.inherit",
    "report": "bequest.reporting.report",
    "score": "bequest.training.score",
    "weighted_linear_cross_entropy": "bequest.losses.linear_cross_entropy",
}

__all__ = [
    "BequestError",
    "ExponentialMovingAverage",
    "FlowTrainer",
    "LatestWeightAverage",
    "StochasticWeightAverage",
    "WeightAverages",
    "WeightAveragingCallback",
    "WeightedTrainer",
    "__version__",
    "average_checkpoints",
    "diagnose",
    "evaluate",
    "flow_weights",
    "grow",
    "inherit",
    "report",
    "score",
    "weighted_linear_cross_entropy",
]

if TYPE_CHECKING:
    from bequest.averaging.average import average_checkpoints
    from bequest.averaging.live import WeightAverages
    from bequest.averaging.recipes import (
        ExponentialMovingAverage,
        LatestWeightAverage,
        StochasticWeightAverage,
    )
    from bequest.errors import BequestError
    from bequest.evaluation.evaluate import evaluate
    from bequest.inheritance.diagnose import diagnose
    from bequest.inheritance.grow import grow
    from bequest.inheritance.inherit import inherit
    from bequest.losses.linear_cross_entropy import weighted_linear_cross_entropy
    from bequest.reporting.report import report
    from bequest.training.averaging_callback import WeightAveragingCallback
    from bequest.training.flow_trainer import FlowTrainer
    from bequest.training.score import score
    from bequest.training.weighted_trainer import WeightedTrainer
    from bequest.weighting.schemes import flow_weights


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'bequest' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"bequest.{name} needs the package {error.name}; install bequest[train]"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
