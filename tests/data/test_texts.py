"""Raw text: documents are cut by hand-checked rules, no token is lost, bad files are refused."""

import json
import re
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkpoints import byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from fastrl.config import TextConfig
from fastrl.data.texts import TextRows, encode_documents, read_texts


def rows_of(documents, seq_len):
    rows = TextRows(documents, seq_len)
    return [[piece.token_ids for piece in rows[i]] for i in range(len(rows))]


def test_rows_by_hand():
    documents = [[1, 2, 3], [10, 11, 12, 13, 14, 15, 16], [20, 21]]
    # 3 and 2 tokens fill the first row; the long document goes on from the token it was cut at, twice
    assert rows_of(documents, 5) == [[[1, 2, 3], [10, 11]], [[11, 12, 13, 14, 15]], [[15, 16], [20, 21]]]
    # one place left trains nothing, so the row ends
    assert rows_of(documents, 4) == [[[1, 2, 3]], [[10, 11, 12, 13]], [[13, 14, 15, 16]], [[20, 21]]]
    assert rows_of(documents, 100) == [documents]
    assert rows_of([[1, 2, 3]], 2) == [[[1, 2]], [[2, 3]]]
    assert rows_of([], 4) == []
    assert TextRows(documents, 5).num_trained == 2 + 6 + 1


@given(st.lists(st.integers(2, 23), max_size=12), st.integers(2, 11))
def test_every_token_but_a_documents_first_is_trained_once(lengths, seq_len):
    """Tokens are numbered through, so a trained one and what it was predicted from can be told."""
    firsts = [sum(lengths[:i]) for i in range(len(lengths))]
    documents = [list(range(first, first + n)) for first, n in zip(firsts, lengths, strict=True)]
    rows = rows_of(documents, seq_len)
    pairs = [pair for row in rows for piece in row for pair in pairwise(piece)]
    assert pairs == [pair for each in documents for pair in pairwise(each)]
    sizes = [sum(map(len, row)) for row in rows]
    assert all(size in (seq_len - 1, seq_len) for size in sizes[:-1])
    assert all(2 <= size <= seq_len for size in sizes)
    assert TextRows(documents, seq_len).num_trained == sum(lengths) - len(lengths)


def test_pieces_are_trained_whole():
    (piece,) = TextRows([[4, 5, 6]], 8)[0]
    assert piece.num_loss_tokens == 2 and piece.weights is None


def test_a_document_ends_with_the_end_token_and_spells_no_other():
    tokenizer = byte_tokenizer()
    end = tokenizer.eos_token_id
    first, second = encode_documents(["ab", "a<eos>b"], tokenizer)
    assert tokenizer.decode(first) == "ab<eos>" and first.count(end) == 1 and first[-1] == end
    # 1 + len("<eos>") + 1 bytes and the end
    assert len(second) == 8 and second.count(end) == 1 and second[-1] == end
    with pytest.raises(ValueError, match="document 2: expected text that has tokens, got ''"):
        list(encode_documents(["a", ""], tokenizer))


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_documents_of_every_kind_of_file(tmp_path):
    rows = [{"text": "one\n\nstill one", "id": 1}, {"text": "two", "id": 2}]
    texts = [row["text"] for row in rows]
    assert read_texts(TextConfig(path=write(tmp_path / "a.jsonl", rows))) == texts
    assert read_texts(TextConfig(path=write(tmp_path / "a.jsonl", rows), limit=1)) == texts[:1]
    pq.write_table(pa.table({"body": texts}), tmp_path / "a.parquet")
    assert read_texts(TextConfig(path=str(tmp_path / "a.parquet"), text_column="body")) == texts
    folder = tmp_path / "books"
    folder.mkdir()
    for name, text in zip(("b.txt", "a.txt"), texts, strict=True):
        (folder / name).write_text(text)
    assert read_texts(TextConfig(path=str(folder))) == texts[::-1]
    assert read_texts(TextConfig(path=str(folder / "b.txt"))) == texts[:1]


def test_what_is_no_text_is_refused_by_name(tmp_path):
    def refused(rows, **options):
        with pytest.raises(ValueError) as caught:
            read_texts(TextConfig(path=write(tmp_path / "a.jsonl", rows), **options))
        return str(caught.value)

    message = refused([{"body": "a", "id": 1}])
    assert re.search(r"\[data\] text_column: expected one of body, id, .*a.jsonl', got 'text'", message)
    assert "row 2: expected text, got None" in refused([{"text": "a"}, {"body": "b"}])
    assert "row 2: expected text, got 7" in refused([{"text": "a"}, {"text": 7}])
    assert "row 1: expected text, got ' '" in refused([{"text": " "}])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected a folder with \.txt files, got none"):
        read_texts(TextConfig(path=str(tmp_path / "empty")))
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        read_texts(TextConfig(path=str(tmp_path / "none.txt")))
    (tmp_path / "blank.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"blank\.txt: expected text"):
        read_texts(TextConfig(path=str(tmp_path / "blank.txt")))
