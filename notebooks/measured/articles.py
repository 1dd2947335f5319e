"""How many articles each training set has: reports/reference/articles.csv.

python notebooks/measured/articles.py DATASET reports/reference/articles.csv
"""

import sys

import pandas as pd

from lvmlib.study import read_study
from lvmlib.vectors import describe, open_dataset


def main(folder, output):
    """Count the articles of each size and seed of the reference study once."""
    dataset, rows = open_dataset(folder, verify=False), {}
    for run in read_study("reference", folder).runs:
        place = run.settings.size, run.settings.seed
        if run.settings.protocol == "controlled" and place not in rows:
            parts = describe(dataset, run.settings.split(dataset)).set_index("part")
            rows[place] = parts.loc["train", "documents"]
    found = [(*place, count) for place, count in sorted(rows.items())]
    table = pd.DataFrame(found, columns=["size", "seed", "articles"])
    table.to_csv(output, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
