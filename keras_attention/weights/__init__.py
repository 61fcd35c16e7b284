"""Weights of the authors' PyTorch code, read without PyTorch."""

from keras_attention.weights.checkpoints import read_state_dict
from keras_attention.weights.torch_state import LoadReport, load_torch

__all__ = ["LoadReport", "load_torch", "read_state_dict"]
