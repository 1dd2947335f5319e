"""How fast a dump is read and cut into chunks: reports/benchmark/reading.csv.

python notebooks/measured/reading.py DUMP.xml.bz2 reports/benchmark/reading.csv

The pages of the dump once and four times, each in a process of its own: megabytes of
XML a second, and whether the peak of memory grows with the dump.
"""

import bz2
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from lvmlib.corpus.text import chunk, read_articles
from lvmlib.runs import processor_name

COPIES = (1, 4)


def read(dump):
    """Print articles, chunks, seconds and peak memory of reading one dump."""
    started, articles, chunks = time.process_time(), 0, 0
    for article in read_articles(dump):
        articles += 1
        chunks += len(chunk(article.paragraphs))
    seconds = time.process_time() - started  # of the core: others may share it
    # Of this process alone: getrusage's figure begins at that of its parent.
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    print(articles, chunks, seconds, int(status["VmHWM"].split()[0]) / 1024)


def main(source, output):
    """Write a row for each size of dump."""
    text = bz2.decompress(Path(source).read_bytes()).decode()
    head, tag, rest = text.partition("<page>")
    pages, tail, _ = rest.rpartition("</mediawiki>")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for copies in COPIES:
            dump = Path(folder, f"{copies}.xml")
            dump.write_text(head + copies * (tag + pages) + tail, encoding="utf-8")
            command = [sys.executable, __file__, str(dump)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            articles, chunks, seconds, peak = map(float, done.stdout.split())
            row = {"megabytes": dump.stat().st_size / 1e6, "articles": articles}
            row |= {"chunks": chunks, "seconds": seconds, "peak_mb": peak}
            rows.append(row | {"processor": processor_name()})
    pd.DataFrame(rows).to_csv(output, index=False)
    print(pd.DataFrame(rows).to_string())


if __name__ == "__main__":
    read(sys.argv[1]) if len(sys.argv) == 2 else main(*sys.argv[1:])
