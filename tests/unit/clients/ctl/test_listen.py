"""What `sttctl listen` refuses before it has asked for a session."""

import pytest


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--sink", "x"], "--sink goes with --system or --both"),
        (["--system", "--device", "x"], "--sink names the output"),
        (["--both", "--file", "a.wav"], "--file is in place of the microphone"),
        (["--names", "a,b"], "--names goes with --both"),
        (["--both", "--names", "a"], "--names are two"),
        (["--both", "--names", "a,a"], "--names are two"),
        (["--both", "--names", "a,b\tc"], "--names are two"),
        (["--force"], "go with --output"),
        (["-f", "srt"], "go with --output"),
        (["-o", "talk"], "end it in .txt, .srt, .vtt, .json, .jsonl, .tsv"),
        (["-o", "talk.doc"], "talk.doc does not say which format"),
        (["-o", "/nonexistent/talk.srt"], "no directory /nonexistent"),
        (["-o", "/dev/null", "-f", "txt", "--force"], "/dev/null is no file"),
        (["-o", "/tmp", "-f", "txt", "--force"], "/tmp is no file"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_recorded(sttctl, arguments, told):
    status, out, err = sttctl("listen", *arguments)
    assert (status, out) == (2, "")
    assert told in err


def test_a_transcript_that_is_there_is_not_overwritten_unless_that_is_asked_for(sttctl, tmp_path):
    path = tmp_path / "talk.srt"
    path.write_text("an hour of work")
    status, _, err = sttctl("listen", "-o", str(path))
    assert status == 2
    assert "--force overwrites it" in err
    assert (
        sttctl("listen", "-o", str(path), "--force", "--file", "/nonexistent.wav")[0] == 1
    )  # it came to the next step
    assert path.read_text() == "an hour of work"  # and is still there: nothing was heard
