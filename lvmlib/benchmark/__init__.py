"""How fast training is, measured against a control (notebooks/benchmark.ipynb)."""
