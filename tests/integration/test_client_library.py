"""The client library against real daemons: both planes, every kind, TCP with a token, a restart in between."""

import socket
from pathlib import Path

import pytest
from sttd_client import (
    Final,
    Interim,
    Reconnected,
    SpeechStart,
    Stopped,
    TcpAddress,
    blocking,
)

from sttd.errors import AccessError, ModelError, NotFoundError
from tests.running import PATIENCE_S
from tests.unit.clients.kinds import each_kind, each_loop

SPEECH = Path(__file__).parents[1] / "data" / "light.flac"


@pytest.fixture(scope="module")
def pcm():
    """A short sentence, 16 kHz. `fake` hears a word every 300 ms of it."""
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=16000)
    with av.open(str(SPEECH)) as container:
        parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    whole = b"".join(part.to_ndarray().tobytes() for part in parts)
    return whole[: len(whole) // 640 * 640]  # whole frames of 20 ms: nothing is left over for another utterance


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_blocking_session_gets_interims_and_a_final(serve, pcm):
    daemon = serve("--tcp", "off", "--model", "fake")
    with blocking.open_session(
        socket_path=daemon.control, timeout_s=PATIENCE_S, endpointing=False, words=True, label="test"
    ) as session:
        assert session.started.label == "test"
        assert session.started.endpointing is False
        with blocking.open_control(daemon.control) as control:
            (row,) = control.call("sessions")["sessions"]
            assert row["session"] == session.started.session
        for at in range(0, len(pcm), 3200):
            session.send(pcm[at : at + 3200])
        session.finalize()
        session.stop()
        events = list(session)
    (final,) = (event for event in events if isinstance(event, Final))
    assert final.text.startswith("w1 w2 w3")
    assert [word.word.strip() for word in final.words] == final.text.split()
    assert final.reason == "finalize"
    assert isinstance(events[-1], Stopped)
    assert events[-1].audio_s == pytest.approx(len(pcm) / 32000, abs=0.02)


@each_loop
async def test_a_session_shows_text_while_audio_is_sent(kind, serve, pcm):
    daemon = serve("--tcp", "off", "--model", "fake")
    interims, half = [], len(pcm) // 4 * 2

    async def listen(session):
        async for event in session:
            if isinstance(event, Interim):
                interims.append(event)  # noqa: PERF401 - the other task looks at it meanwhile

    async with (
        kind.open_session(socket_path=daemon.control, timeout_s=PATIENCE_S, endpointing=False) as session,
        kind.task(listen, session),
    ):
        for part in (pcm[:half], pcm[half:]):
            shown = len(interims)
            await session.send(part)
            while len(interims) == shown:
                await kind.sleep(0.02)
        await session.stop()
    assert len(interims) >= 2
    assert [len(event.text) for event in interims] == sorted(len(event.text) for event in interims)


@each_kind
async def test_tcp_needs_the_token_that_the_daemon_wants(kind, serve, pcm):
    port = free_port()
    serve("--tcp", f"127.0.0.1:{port}", "--model", "fake", "--set", "server.token=secret")
    address = TcpAddress(port=port, token="secret")
    async with kind.open_session(tcp=address, timeout_s=PATIENCE_S, endpointing=False) as session:
        await session.send(pcm)
        await session.stop()
        assert [event async for event in session if isinstance(event, Final)]
    for wrong in (None, "wrong"):
        with pytest.raises(AccessError) as caught:
            async with kind.open_session(tcp=TcpAddress(port=port, token=wrong), timeout_s=PATIENCE_S):
                pass
        assert caught.value.code == "unauthorized"


@each_loop
async def test_refusals_come_as_their_errors(kind, serve):
    daemon = serve("--tcp", "off", "--model", "fake")
    with pytest.raises(ModelError) as caught:
        async with kind.open_session(socket_path=daemon.control, timeout_s=PATIENCE_S, model="nonsense"):
            pass
    assert caught.value.code == "model_not_found"
    async with kind.open_control(daemon.control) as control:
        with pytest.raises(NotFoundError):
            await control.call("close_session", session="nonsense")


@each_kind
async def test_a_file_is_sent_as_it_is(kind, serve):
    daemon = serve("--tcp", "off", "--model", "fake")
    async with kind.open_session(
        socket_path=daemon.control, timeout_s=PATIENCE_S, kind="file", encoding="container"
    ) as session:
        await session.send(SPEECH.read_bytes())
        await session.stop()
        finals = [event.text async for event in session if isinstance(event, Final)]
    assert finals[0].startswith("w1 w2 w3")


@each_loop
async def test_a_session_survives_a_restart_when_asked_to(kind, serve, pcm):
    first = serve("--tcp", "off", "--model", "fake")
    async with kind.open_session(
        socket_path=first.control,
        timeout_s=PATIENCE_S,
        reconnect_s=PATIENCE_S,
        endpointing=False,
        interim=False,
        label="kept",
    ) as session:
        await session.send(pcm)
        assert isinstance(await session.receive(), SpeechStart)  # the daemon has heard it
        await kind.in_thread(first.stop)
        second = serve("--tcp", "off", "--model", "fake")
        events = []
        while not events or not isinstance(events[-1], Reconnected):
            events.append(await session.receive())
        assert [event.reason for event in events if isinstance(event, Final)] == ["drain"]  # the first kept its promise
        assert second.call("sessions")["sessions"][0]["label"] == "kept"
        await session.send(pcm)
        await session.stop()
        assert [event.text async for event in session if isinstance(event, Final)]


@each_loop
async def test_events_reach_a_subscriber_while_it_calls(kind, serve, pcm):
    daemon = serve("--tcp", "off", "--model", "fake")
    async with (
        kind.open_control(daemon.control) as control,
        control.subscribe(topics=["transcripts", "models"]) as events,
    ):
        await control.call("load", preset="fake")
        seen = [await events.receive(), await events.receive()]
        assert [event["event"] for event in seen] == ["loading", "loaded"]
        async with kind.open_session(socket_path=daemon.control, timeout_s=PATIENCE_S, endpointing=False) as session:
            await session.send(pcm)
            await session.stop()
            async for _ in session:
                pass
        final = await events.receive()
        assert (final["topic"], final["event"]) == ("transcripts", "final")
        assert final["text"].startswith("w1 w2 w3")
        assert [event["seq"] for event in [*seen, final]] == [1, 2, 3]
