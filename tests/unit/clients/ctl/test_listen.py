"""What `sttctl listen` refuses before it has asked for a session, and what it writes of one that was lost."""

from types import SimpleNamespace

import pytest
from sttd_client.channel_clock import ChannelClock, Epoch
from sttd_client.ctl.listen import _Display, _Output
from sttd_client.events import Reconnected
from sttd_client.transcripts import Hole


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


@pytest.mark.parametrize(("lost_bytes", "holes"), [(0, []), (3200, []), (64_000, [(1.0, 3.0, "connection_lost")])])
def test_what_is_lost_with_a_session_is_a_hole_from_its_last_final_to_where_the_next_begins(lost_bytes, holes):
    clock = ChannelClock(epoch=Epoch(), bytes_per_s=32_000, is_filled=True)
    clock.said(4 * 32_000, 4.0)
    clock.begin_anew(32_000)
    written = []
    transcript = SimpleNamespace(begin=lambda: None, add=lambda entry: written.append(entry.what))
    channel = SimpleNamespace(name="you", clock=clock, settled_s=1.0)
    output = _Output(_Display(lambda event, channel: None), transcript)
    output.take(channel, Reconnected(session="s2", lost_bytes=lost_bytes, again_bytes=32_000))
    assert all(isinstance(hole, Hole) for hole in written)
    assert [(hole.start_s, hole.end_s, hole.code) for hole in written] == holes
