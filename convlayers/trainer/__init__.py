"""Training: a model, a loss, an optimizer, and the loop that brings them together."""

from .callbacks import Callback, Checkpoint, EarlyStopping, LearningRateSchedule
from .losses import CrossEntropy, MeanSquaredError
from .optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from .trainer import Trainer

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Callback",
    "Checkpoint",
    "CrossEntropy",
    "EarlyStopping",
    "LearningRateSchedule",
    "MeanSquaredError",
    "Optimizer",
    "RMSprop",
    "Trainer",
]
