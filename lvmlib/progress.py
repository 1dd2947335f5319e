"""Showing how far a run is: on a terminal, in a notebook, and to other processes."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

from IPython import get_ipython
from IPython.display import DisplayHandle, display
from tqdm import tqdm


class Progress:
    """Progress of one training run.

    A bar on a terminal; in a notebook one line that is rewritten an epoch; otherwise
    silent. `folder`/progress.json always tells other processes (the study runner).
    """

    def __init__(self, folder: str | Path, total: int) -> None:
        self.path = Path(folder) / "progress.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.total, self.text = total, "epoch 1"
        self.started = self.written = time.monotonic()
        self.bar = tqdm(total=total, disable=None, unit="step", desc=self.text)
        self.line = notebook_line()

    def update(self, step: int) -> None:
        """Move to `step`; cheap enough for every update."""
        self.bar.update(step - self.bar.n)
        if time.monotonic() - self.written > 1:
            self._write(step)

    def describe(self, row: dict[str, float]) -> None:
        """Show the figures of a finished epoch (a row of the history)."""
        self.text = f"epoch {row['epoch']}, cosine {row['validation_cosine']:.4f}"
        self.bar.set_description(self.text)
        self._write(int(row["step"]))
        if self.line:
            passed = time.monotonic() - self.started
            left = passed * (self.total / row["step"] - 1)
            text = f"{self.text} on validation · {passed:.0f} s"
            if left:
                text += f", {left:.0f} s to go"
            self.line.update({"text/plain": text}, raw=True)

    def close(self) -> None:
        """Take the bar and progress.json away."""
        self.bar.close()
        self.path.unlink(missing_ok=True)

    def _write(self, step: int) -> None:
        content = {"step": step, "total": self.total, "text": self.text}
        with suppress(OSError):  # a full disk must not stop a run for a progress bar
            self.path.write_text(json.dumps(content))
        self.written = time.monotonic()


def in_kernel() -> bool:
    """Say whether this is the kernel of a notebook."""
    return "IPKernelApp" in getattr(get_ipython(), "config", {})


def notebook_line() -> DisplayHandle | None:
    """Return an updatable display line when running in a Jupyter kernel, else None."""
    if not in_kernel():
        return None
    return display({"text/plain": "starting …"}, raw=True, display_id=True)
