"""Build the bundled vectors anew: `make sample`, lvmlib/sample.

python notebooks/measured/sample.py [ENCODER]

From the shortened Wikipedia dump that the gensim wheel ships; ENCODER is a folder with
all-mpnet-base-v2 for machines that are offline. Vectors only: no text goes in.
"""

import json
import shutil
import sys
from importlib import metadata

from lvmlib.corpus.building import build
from lvmlib.corpus.encoding import DEFAULT_ENCODER
from lvmlib.files import write_json
from lvmlib.vectors import SAMPLE, open_dataset


def main(encoder=DEFAULT_ENCODER):
    """Build the sample beside the one there is, and put it in its place."""
    dump = next(f for f in metadata.files("gensim") or [] if f.match("enwiki-*.bz2"))
    info = {
        "name": "wikipedia-en-sample",
        "source": "shortened English Wikipedia dump shipped in the gensim "
        f"{metadata.version('gensim')} wheel ({dump})",
        "licence": "vectors derived from text under CC BY-SA 3.0",
    }
    new = SAMPLE.with_name("sample.new")
    build(str(dump.locate()), str(new), encoder, info=info, keep_text=False)
    described = json.loads((new / "dataset.json").read_text())
    described["encoder"]["name"] = DEFAULT_ENCODER  # a local folder holds the same
    write_json(new / "dataset.json", described)
    for file in SAMPLE.iterdir():  # such as the text that use.ipynb reads
        if not (new / file.name).exists():
            shutil.copy(file, new)
    shutil.rmtree(SAMPLE)
    new.rename(SAMPLE)
    print(open_dataset().folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
