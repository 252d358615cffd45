"""A transcript on a disk: one that fills up, one from which somebody takes the file away."""

import json
import os
import resource
from contextlib import contextmanager

import pytest
from sttd_client.events import Final
from sttd_client.growing_transcript import GrowingTranscript
from sttd_client.transcript_file import TranscriptFile
from sttd_client.transcripts import Entry


def said(text, start_s=0.0, channel=""):
    final = Final(utterance=1, text=text, start_s=start_s, end_s=start_s + 1.0, reason="endpoint")
    return Entry(what=final, channel=channel)


@contextmanager
def full_beyond(size):
    """No file of this process can be longer: the kernel's answer is an error, as that of a full disk is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def told():
    return []


@pytest.fixture
def new(tmp_path, told):
    """`new()` is a file that has begun; it is closed at the end of the test, unless that was done."""
    files = []

    def make(kind="txt", name="talk", *, channels=False, overwrite=False):
        growing = GrowingTranscript(kind, channels=channels)
        file = TranscriptFile(tmp_path / name, growing, overwrite=overwrite, tell=told.append)
        file.begin()
        files.append(file)
        return file

    yield make
    for file in files:
        file.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "talk"


def test_what_was_said_is_in_the_file_at_once(new, path, told):
    file = new()
    assert path.read_text() == ""
    file.add(said("One."))
    assert path.read_text() == "One.\n"
    file.add(said("Two.", 2.0))
    assert path.read_text() == "One.\nTwo.\n"
    assert told == []


def test_a_file_that_only_grows_stays_the_same_file(new, path):
    file = new()
    before = path.stat().st_ino
    file.add(said("One."))
    assert path.stat().st_ino == before


def test_what_began_earlier_takes_its_place_in_one_step(new, path):
    file = new("srt", channels=True)
    file.add(said("Late.", 5.0, "you"))
    with path.open() as reader:  # has the file open, as a player has
        file.add(said("Early.", 1.0, "system"))
        assert "Early." not in reader.read()  # no reader finds half of the one and half of the other
    assert path.read_text().index("Early.") < path.read_text().index("Late.")
    file.add(said("Last.", 9.0, "you"))
    assert path.read_text().endswith("3\n00:00:09,000 --> 00:00:10,000\nyou: Last.\n")
    assert os.listdir(path.parent) == ["talk"]


def test_json_is_whole_after_each_utterance(new, path):
    file = new("json")
    assert json.loads(path.read_text())["utterances"] == []
    for count in (1, 2):
        file.add(said("One.", count))
        assert len(json.loads(path.read_text())["utterances"]) == count


def test_a_file_that_is_there_is_kept_unless_it_may_go(new, path, tmp_path):
    path.write_text("mine")
    path.chmod(0o600)
    with pytest.raises(FileExistsError):
        new()
    assert path.read_text() == "mine"
    (tmp_path / "link").symlink_to(path)
    new(name="link", overwrite=True).add(said("One."))
    assert path.read_text() == "One.\n"
    assert path.stat().st_mode & 0o777 == 0o600  # as its owner had it
    assert (tmp_path / "link").is_symlink()


def test_a_new_file_has_the_mode_that_the_user_wants_files_to_have(new, path, tmp_path):
    before = os.umask(0o027)
    try:
        file = new(channels=True)
        file.add(said("Late.", 5.0, "you"))
        file.add(said("Early.", 1.0, "you"))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("early", [False, True])
def test_a_full_disk_is_said_once_and_what_was_said_meanwhile_is_written_later(new, path, told, early):
    file = new(channels=True)
    file.add(said("One.", 10.0, "you"))
    whole = path.read_text()
    with full_beyond(len(whole) + 4):
        file.add(said("Two.", 5.0 if early else 20.0, "you"))
        assert path.read_text() == whole  # not half an utterance
        file.add(said("Three.", 30.0, "you"))
        assert path.read_text() == whole
    assert len(told) == 1
    assert "captions go on" in told[0]
    file.add(said("Four.", 40.0, "you"))
    words = [line.split()[-1] for line in path.read_text().splitlines()]
    assert words == (["Two.", "One."] if early else ["One.", "Two."]) + ["Three.", "Four."]
    assert len(told) == 2
    assert "nothing is missing" in told[1]
    assert os.listdir(path.parent) == ["talk"]


def test_a_disk_that_is_full_to_the_end_is_an_error_of_the_end(tmp_path, told):
    file = TranscriptFile(
        tmp_path / "talk", GrowingTranscript("txt", channels=False), overwrite=False, tell=told.append
    )
    file.begin()
    with full_beyond(2):
        file.add(said("One."))
        with pytest.raises(OSError, match="File too large"):
            file.close()
    assert (tmp_path / "talk").read_text() == ""


def test_a_file_that_was_taken_away_is_made_anew(new, path, told):
    file = new()
    file.add(said("One."))
    path.unlink()
    file.add(said("Two.", 2.0))
    assert path.read_text() == "One.\nTwo.\n"
    file.add(said("Three.", 4.0))
    assert path.read_text() == "One.\nTwo.\nThree.\n"
    assert told == []


def test_a_file_that_somebody_else_put_there_is_left_alone_and_said(new, path, told):
    file = new()
    file.add(said("One."))
    path.unlink()
    path.write_text("mine")
    file.add(said("Two.", 2.0))
    assert path.read_text() == "mine"
    assert "another program" in told[0]
    path.unlink()
    file.add(said("Three.", 4.0))
    assert path.read_text() == "One.\nTwo.\nThree.\n"


def test_an_editor_that_saves_by_renaming_keeps_what_it_saved(new, path, told):
    file = new()
    file.add(said("One."))
    path.rename(f"{path}~")  # its backup
    path.write_text("One, edited.\n")
    file.add(said("Two.", 2.0))
    assert path.read_text() == "One, edited.\n"
    assert "another program" in told[0]
    with pytest.raises(FileExistsError):
        file.close()


def test_a_file_that_cannot_be_made_is_an_error_at_once(tmp_path, told):
    file = TranscriptFile(
        tmp_path / "no" / "talk", GrowingTranscript("txt", channels=False), overwrite=False, tell=told.append
    )
    with pytest.raises(FileNotFoundError):
        file.begin()
    file.close()
