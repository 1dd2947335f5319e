"""Latent vector models: from the vectors of five chunks of text to the next one's.

>>> import lvmlib
>>> model = lvmlib.load_weights("model.safetensors")  # doctest: +SKIP
>>> lvmlib.predict(model, context)  # (5, 768) to a unit vector (768,) # doctest: +SKIP
"""

from lvmlib.inference import predict
from lvmlib.models import ARCHITECTURES, build_model, count_parameters
from lvmlib.parameters import notebook_settings, read_parameters
from lvmlib.runs import execute, load_run
from lvmlib.study import load_study, missing_runs
from lvmlib.vectors import make_split, open_dataset
from lvmlib.weights import load_weights, save_weights

__all__ = [
    "ARCHITECTURES",
    "build_model",
    "count_parameters",
    "execute",
    "load_run",
    "load_study",
    "load_weights",
    "make_split",
    "missing_runs",
    "notebook_settings",
    "open_dataset",
    "predict",
    "read_parameters",
    "save_weights",
]
