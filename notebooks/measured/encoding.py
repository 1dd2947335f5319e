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
    ours = load_encoder(encoder)
    plain = load_encoder(encoder).model.bfloat16()
    ways = {
        "plain": lambda: plain.encode(texts, normalize_embeddings=True),
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
        near = cosine(*(np.asarray(vectors[way], dtype=np.float32) for way in ways))
        rows[-1]["cosine_to_plain"] = float(near.mean())
        print(rows[-2:], flush=True)
    exact = load_encoder(encoder, "32-true").encode(texts)
    rows[-1]["cosine_to_float32"] = float(cosine(vectors["lvmlib"], exact).mean())
    table = pd.DataFrame(rows).assign(processor=processor_name())
    table.to_csv(output, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
