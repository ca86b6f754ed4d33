"""Models: a chain of layers, or a graph of them; their tables and their files."""

from .graph import Input
from .model import Model
from .sequential import Sequential
from .store import load

__all__ = ["Input", "Model", "Sequential", "load"]
