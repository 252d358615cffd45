"""The client library against real daemons: both planes, both colours, TCP with a token, a restart in between."""

import socket
from pathlib import Path

import pytest
import trio
from sttd_client import (
    Final,
    Interim,
    Reconnected,
    SpeechStart,
    Stopped,
    TcpAddress,
    blocking,
    open_control,
    open_session,
)

from sttd.errors import AccessError, ModelError, NotFoundError
from tests.running import PATIENCE_S

SPEECH = Path(__file__).parents[1] / "data" / "light.flac"


@pytest.fixture
async def watchdog():
    with trio.fail_after(3 * PATIENCE_S):
        yield


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


async def test_a_trio_session_shows_text_while_audio_is_sent(serve, pcm, watchdog):
    daemon = serve("--tcp", "off", "--model", "fake")
    async with (
        open_session(socket_path=daemon.control, timeout_s=PATIENCE_S, endpointing=False) as session,
        trio.open_nursery() as nursery,
    ):
        interims = []

        async def send():
            half = len(pcm) // 4 * 2
            for part in (pcm[:half], pcm[half:]):
                shown = len(interims)
                await session.send(part)
                while len(interims) == shown:  # noqa: ASYNC110 - the other task tells nobody
                    await trio.sleep(0.02)
            await session.stop()

        nursery.start_soon(send)
        async for event in session:
            if isinstance(event, Interim):
                interims.append(event)  # noqa: PERF401 - the other task looks at it meanwhile
    assert len(interims) >= 2
    assert [len(event.text) for event in interims] == sorted(len(event.text) for event in interims)


async def test_tcp_needs_the_token_that_the_daemon_wants(serve, pcm, watchdog):
    port = free_port()
    serve("--tcp", f"127.0.0.1:{port}", "--model", "fake", "--set", "server.token=secret")
    async with open_session(
        tcp=TcpAddress(port=port, token="secret"), timeout_s=PATIENCE_S, endpointing=False
    ) as session:
        await session.send(pcm)
        await session.stop()
        assert [event async for event in session if isinstance(event, Final)]
    with blocking.open_session(tcp=TcpAddress(port=port, token="secret"), timeout_s=PATIENCE_S) as blocking_session:
        assert blocking_session.started.session
    for wrong in (None, "wrong"):
        with pytest.raises(AccessError) as caught:
            async with open_session(tcp=TcpAddress(port=port, token=wrong), timeout_s=PATIENCE_S):
                pass
        assert caught.value.code == "unauthorized"


async def test_refusals_come_as_their_errors(serve, watchdog):
    daemon = serve("--tcp", "off", "--model", "fake")
    with pytest.raises(ModelError) as caught:
        async with open_session(socket_path=daemon.control, timeout_s=PATIENCE_S, model="nonsense"):
            pass
    assert caught.value.code == "model_not_found"
    async with open_control(daemon.control) as control:
        with pytest.raises(NotFoundError):
            await control.call("close_session", session="nonsense")


async def test_a_session_survives_a_restart_when_asked_to(serve, pcm, watchdog):
    first = serve("--tcp", "off", "--model", "fake")
    async with open_session(
        socket_path=first.control,
        timeout_s=PATIENCE_S,
        reconnect_s=PATIENCE_S,
        endpointing=False,
        interim=False,
        label="kept",
    ) as session:
        await session.send(pcm)
        assert isinstance(await session.receive(), SpeechStart)  # the daemon has heard it
        await trio.to_thread.run_sync(first.stop)
        second = serve("--tcp", "off", "--model", "fake")
        events = []
        while not events or not isinstance(events[-1], Reconnected):
            events.append(await session.receive())
        assert [event.reason for event in events if isinstance(event, Final)] == ["drain"]  # the first kept its promise
        assert second.call("sessions")["sessions"][0]["label"] == "kept"
        await session.send(pcm)
        await session.stop()
        assert [event.text async for event in session if isinstance(event, Final)]


async def test_events_reach_a_subscriber_while_it_calls(serve, pcm, watchdog):
    daemon = serve("--tcp", "off", "--model", "fake")
    async with open_control(daemon.control) as control, control.subscribe(topics=["transcripts", "models"]) as events:
        await control.call("load", preset="fake")
        seen = [await events.receive(), await events.receive()]
        assert [event["event"] for event in seen] == ["loading", "loaded"]
        async with open_session(socket_path=daemon.control, timeout_s=PATIENCE_S, endpointing=False) as session:
            await session.send(pcm)
            await session.stop()
            async for _ in session:
                pass
        final = await events.receive()
        assert (final["topic"], final["event"]) == ("transcripts", "final")
        assert final["text"].startswith("w1 w2 w3")
        assert [event["seq"] for event in [*seen, final]] == [1, 2, 3]
