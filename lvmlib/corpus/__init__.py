"""From articles to a dataset of vectors, and what is in it (notebooks/data.ipynb)."""
