"""A file appears whole or not at all."""

from pathlib import Path

import pytest

from perfkit.model.files import write_whole


def test_it_is_written_with_its_folder(tmp_path):
    write_whole(tmp_path / "new" / "a.txt", "one")
    assert (tmp_path / "new" / "a.txt").read_text() == "one"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_what_was_there_stays_when_the_new_text_cannot_be_written(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "new \ud800")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_whole(tmp_path / "link", "one")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "one"


def test_a_device_is_written_to_and_not_replaced():
    with pytest.raises(OSError, match="No space left"):
        write_whole(Path("/dev/full"), "text")
    assert Path("/dev/full").is_char_device()
