import json

from lvmlib import progress
from lvmlib.progress import Progress


def row(epoch, step):
    return {"epoch": epoch, "step": step, "validation_cosine": 0.5}


def test_other_processes_can_follow(tmp_path):
    bar = Progress(tmp_path, 10)
    bar.describe(row(1, 5))
    seen = json.loads((tmp_path / "progress.json").read_text())
    assert seen == {"step": 5, "total": 10, "text": "epoch 1, cosine 0.5000"}
    bar.close()
    assert not list(tmp_path.iterdir())


def test_quiet_when_not_a_terminal(tmp_path, capsys):
    bar = Progress(tmp_path, 10)
    for step in range(1, 11):
        bar.update(step)
    bar.describe(row(1, 10))
    bar.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_a_terminal_gets_epoch_cosine_and_time(tmp_path, monkeypatch):
    class Terminal:
        written = ""

        def write(self, text):
            self.written += text

        def flush(self): ...

        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    bar = Progress(tmp_path, 10)
    bar.update(5)
    bar.describe(row(1, 5))
    bar.close()
    assert "epoch 1, cosine 0.5000" in terminal.written
    assert "5/10" in terminal.written


def test_a_notebook_gets_one_line_that_is_rewritten(tmp_path, monkeypatch):
    class Line:
        texts = ()

        def update(self, data, raw):
            self.texts += (data["text/plain"],)

    line = Line()
    monkeypatch.setattr(progress, "notebook_line", lambda: line)
    bar = Progress(tmp_path, 10)
    bar.describe(row(1, 5))
    bar.describe(row(2, 10))
    bar.close()
    assert line.texts[0].startswith("epoch 1, cosine 0.5000 on validation")
    assert "to go" in line.texts[0]
    assert "to go" not in line.texts[1]
