"""Latent vector models: from the vectors of five chunks of text to the next one's.

>>> import lvmlib
>>> model = lvmlib.load_weights("model.safetensors")  # doctest: +SKIP
>>> lvmlib.predict(model, context)  # (5, 768) to a unit vector (768,) # doctest: +SKIP
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "ARCHITECTURES": "models",
    "build_model": "models",
    "compare": "results",
    "count_parameters": "models",
    "load_pretrained": "weights",
    "load_run": "records",
    "load_study": "results",
    "load_weights": "weights",
    "make_split": "vectors",
    "missing_runs": "results",
    "new_model": "runs",
    "notebook_settings": "recipe",
    "open_dataset": "vectors",
    "predict": "inference",
    "read_parameters": "names",
    "run": "runs",
    "save_weights": "weights",
    "with_mean": "inference",
}
__all__ = list(_HOMES)


# Found at first use: rendering a page needs lvmlib.show.html, but not torch, which
# takes four seconds.
def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lvmlib' has no attribute {name!r}")
    return getattr(import_module(f"lvmlib.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
