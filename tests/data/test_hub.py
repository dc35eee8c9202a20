"""Files of data sets on the hub: which one is asked for, and what is said where it can't be had."""

import pytest
from jsonl import write_jsonl

from fastrl.config import DataConfig
from fastrl.config.files import DataFile, is_there
from fastrl.data import load_problems
from fastrl.data.hub import local_file


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("hub:someone/sums/data/train.jsonl", ("someone/sums", "data/train.jsonl", "dataset", None)),
        ("hub:someone/sums@v1.0/a.jsonl", ("someone/sums", "a.jsonl", "dataset", "v1.0")),
    ],
)
def test_a_file_of_a_data_set(tmp_path, monkeypatch, path, asked):
    kept, calls = write_jsonl(tmp_path / "a.jsonl", [{"question": "1+1?", "answer": "2"}]), []

    def download(repo, file, *, repo_type, revision):
        calls.append((repo, file, repo_type, revision))
        return kept

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert [problem.solution for problem in load_problems(DataConfig(path=path))] == ["2"]
    assert calls == [asked]
    assert is_there(DataFile("data.path", "", "", path))


@pytest.mark.parametrize("path", ["hub:train.jsonl", "hub:someone/sums", "hub:a/b@/c.jsonl", "hub:a/b/ "])
def test_names_of_another_form_are_refused(path):
    with pytest.raises(ValueError, match=r"\[data\] path: expected hub:OWNER/NAME/FILE or .*, got 'hub:"):
        local_file(path)


def test_without_a_connection_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"got 'hub:someone/nothing/a.jsonl': .*; without a connec"):
        local_file("hub:someone/nothing/a.jsonl")
