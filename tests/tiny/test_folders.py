"""Folders of tiny worlds: cache keys, atomic creation, export of several worlds."""

from dataclasses import dataclass

import pytest

from fastrl.cli import tiny as cli_tiny
from fastrl.tiny import folders
from fastrl.tiny.folders import digest, export, make_once


@dataclass
class Config:
    a: int = 1


def test_a_key_depends_on_the_configuration_the_parent_and_the_text_of_the_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "PACKAGE", tmp_path)
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(name)
    sources = ["one.py", "two.py"]
    keys = {
        digest("torch 2", Config(), sources),
        digest("torch 3", Config(), sources),
        digest("torch 2", Config(a=2), sources),
        digest("torch 2", Config(), sources[:1]),
    }
    before = digest("torch 2", Config(), sources)
    assert len(keys) == 4 and before in keys
    (tmp_path / "two.py").write_text("something else")
    assert digest("torch 2", Config(), sources) not in keys
    (tmp_path / "two.py").write_text("two.py")
    assert digest("torch 2", Config(), sources) == before


def test_a_folder_is_made_once(tmp_path):
    folder = tmp_path / "deep" / "world"
    assert make_once(folder, lambda to: (to / "file").write_text("first")) == folder
    make_once(folder, lambda to: (to / "file").write_text("second"))
    assert (folder / "file").read_text() == "first"
    assert list(folder.parent.iterdir()) == [folder]


def test_the_first_of_two_makers_is_kept(tmp_path):
    folder = tmp_path / "world"

    def overtaken(to):
        make_once(folder, lambda other: (other / "file").write_text("first"))
        (to / "file").write_text("second")

    make_once(folder, overtaken)
    assert (folder / "file").read_text() == "first" and list(tmp_path.iterdir()) == [folder]


def test_a_world_that_fails_leaves_no_folder(tmp_path):
    def breaks(to):
        (to / "half").touch()
        raise RuntimeError("no more disk")

    with pytest.raises(RuntimeError, match="no more disk"):
        export(tmp_path / "worlds", [lambda to: (to / "plain").touch(), breaks])
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    with pytest.raises(ValueError, match=r"\[tiny\] dir: expected a folder that does not exist yet"):
        export(tmp_path, [])


@pytest.mark.parametrize(
    "flags, worlds",
    [
        ([], {"world"}),
        (["--int", "false"], {"world"}),
        (["--tracelift", "true"], {"world", "lift"}),
        (["--int", "true"], {"world", "int"}),
        (["--weak", "true", "--int", "true"], {"world", "int", "weak"}),
        (["--tracelift", "true", "--int", "true", "--weak", "true"], {"world", "lift", "int", "weak"}),
    ],
)
def test_the_command_copies_the_requested_worlds(flags, worlds, tmp_path, monkeypatch, capsys):
    for name, function in (
        ("world", "copy_world"),
        ("sft", "write_conversations"),
        ("lift", "copy_lift_world"),
        ("int", "copy_int_world"),
        ("weak", "copy_weak_world"),
    ):
        monkeypatch.setattr(cli_tiny, function, lambda to, name=name: (to / name).touch())
    assert cli_tiny.main(["--dir", str(tmp_path / "worlds"), *flags]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'worlds'}\n"
    assert {path.name for path in (tmp_path / "worlds").iterdir()} == worlds | {"sft"}
