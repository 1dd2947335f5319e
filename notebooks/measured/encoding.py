"""How fast encoding is beside the plain loop: reports/benchmark/encoding.csv.

python notebooks/measured/encoding.py ENCODER TEXTS.jsonl reports/benchmark/encoding.csv

The plain loop is sentence-transformers' own, with the model in bfloat16 and its default
batches. Both encode the same chunks of whole documents, in turns, one thread.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lvmlib.corpus.encoding import load_encoder
from lvmlib.corpus.text import chunk
from lvmlib.evaluation import cosine
from lvmlib.runs import peak_memory_mb, processor_name

CHUNKS, ROUNDS = 400, 5


def main(encoder, source, output):
    """Encode in turns and write a row a round and way."""
    torch.set_num_threads(1)
    texts = []
    for line in Path(source).read_text().splitlines():
        texts += chunk(json.loads(line)["text"].splitlines())
        if len(texts) >= CHUNKS:
            break
    ours, exact = (
        load_encoder(encoder, precision) for precision in ("auto", "32-true")
    )
    plain = load_encoder(encoder).model.bfloat16()

    def autocast():  # what the library did before: rounds less, casts at every layer
        with torch.autocast("cpu", torch.bfloat16):
            return exact.encode(texts)

    ways = {
        "plain": lambda: plain.encode(texts, normalize_embeddings=True),
        "autocast": autocast,
        "lvmlib": lambda: ours.encode(texts),
    }
    rows = []
    for turn in range(ROUNDS):
        vectors = {}
        for way, encode in ways.items():
            started = time.perf_counter()
            vectors[way] = encode()
            seconds = time.perf_counter() - started
            row = {"way": way, "round": turn, "chunks": len(texts), "seconds": seconds}
            rows.append(row | {"peak_mb": peak_memory_mb()})
        print(rows[-3:], flush=True)
    reference = exact.encode(texts)
    for row, vectors_of in zip(rows[-3:], vectors.values(), strict=True):
        near = cosine(np.asarray(vectors_of, np.float32), reference)
        row["cosine_to_float32"] = float(near.mean())
    table = pd.DataFrame(rows).assign(processor=processor_name())
    table.to_csv(output, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
