"""Training: a model, a loss, an optimizer, and the loop that brings them together."""

from .callbacks import Callback, Checkpoint, EarlyStopping, LearningRateSchedule
from .losses import L1, BCEWithLogits, CrossEntropy, Huber, MeanSquaredError
from .optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from .trainer import Trainer

__all__ = [
    "L1",
    "SGD",
    "Adam",
    "AdamW",
    "BCEWithLogits",
    "Callback",
    "Checkpoint",
    "CrossEntropy",
    "EarlyStopping",
    "Huber",
    "LearningRateSchedule",
    "MeanSquaredError",
    "Optimizer",
    "RMSprop",
    "Trainer",
]
