"""The client library over connections that are cut: what a program hears is what it would have heard without a cut."""

import asyncio  # noqa: TID251 - the library is for asyncio, too
import random
import sys
import time
import wave
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from sttd_client import Resumed, Stopped, TcpAddress, aio, blocking, open_session
from sttd_client.events import as_message

from tests.cutting import Cut, cutting
from tests.running import PATIENCE_S, RunningDaemon, check_promises, read_pcm

DATA = Path(__file__).parents[1] / "data"
STTCTL = Path(sys.executable).with_name("sttctl")
SAMPLE = Path(__file__).parents[2] / "sttd" / "assets" / "sample.flac"
# A session that was never opened is not resumed. Measured: 259 and 1019 bytes pass before it is, with these options.
OPENED = {"up": 400, "down": 1500}
# Else what was decoded early, or not yet, decides how long a silence must be.
STEADY = {"endpointing": {"silence_ms_min": 500, "silence_ms_max": 500}}


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    options = ("--tcp", "off", "--model", "fake", "--set", "limits.resume_s=3600")
    daemon = RunningDaemon.start(tmp_path_factory.mktemp("fake"), *options)
    yield daemon
    assert daemon.stop() == 0


@pytest.fixture(scope="module")
def speech():
    """A sentence, a pause, half a sentence: an endpoint, an utterance that `stop` ends, no whole number of frames."""
    sentence = read_pcm(DATA / "light.flac")
    return sentence + bytes(20_000) + sentence[: len(sentence) // 4 * 2] + bytes(1_234)


@pytest.fixture
async def watchdog():
    with trio.fail_after(PATIENCE_S):
        yield


def script_of(pcm, seed):
    """Pieces of audio of any length, odd ones too, and now and then something else: what one program says."""
    chance, at = random.Random(seed), 0
    while at < len(pcm):
        length = chance.choice([1, 333, 640, 3_200, 6_400, 20_001])
        yield pcm[at : at + length]
        at += length
        if (what := chance.random()) < 0.03:
            yield "finalize"
        elif what < 0.06:
            yield "configure"


def plan_of(seed, *, count, up_bytes, down_bytes):
    """Where `count` connections are cut, one after the other; some while they are still being opened."""
    chance = random.Random(seed)
    for number in range(count):
        direction = chance.choice(["up", "down"])
        after = int(chance.betavariate(1, 3) * (up_bytes if direction == "up" else down_bytes))
        yield Cut(
            direction=direction,
            after_bytes=1 + after + (OPENED[direction] if number == 0 else 0),
            how=chance.choice(["fin", "reset", "half_open"]),
            lag_s=chance.choice([0.0, 0.0, 0.005, 0.03]),
        )


def forget(daemon):
    """End the sessions of which the closing handshake was cut: they wait for a client that has all it wanted.

    That is also where a proxy ends with its test, before it has handed on the last frame.
    """
    with suppress(OSError):  # it has stopped
        for row in daemon.call("sessions")["sessions"]:
            with suppress(RuntimeError):  # it is just going
                daemon.call("close_session", session=row["session"], drain=False)


async def gone(daemon):
    """Wait until the daemon has no session."""
    while daemon.call("sessions")["sessions"]:  # noqa: ASYNC110 - it tells nobody
        await trio.sleep(0.02)


async def heard_all(daemon, audio_s):
    """Wait until all of its sessions have heard so much."""
    while min(row["audio_s"] for row in daemon.call("sessions")["sessions"]) < audio_s - 0.1:  # noqa: ASYNC110
        await trio.sleep(0.02)


async def listen(session, events):
    async for event in session:
        events.append(event)


async def listen_impatiently(session, events):
    """On asyncio: give up waiting again and again, which must lose nothing."""
    while not events or not isinstance(events[-1], Stopped):
        with suppress(TimeoutError):
            async with asyncio.timeout(0.005):
                events.append(await session.receive())
    assert await session.receive() is None


async def say(session, item):
    if item == "finalize":
        await session.finalize()
    elif item == "configure":
        await session.configure(prompt="names")
    else:
        await session.send(item)


async def converse(script, *, pause_s=0.0, **where):
    """On Trio: say it all and listen at the same time. Returns the events."""
    events = []
    async with open_session(timeout_s=PATIENCE_S, **where) as session, trio.open_nursery() as nursery:
        nursery.start_soon(listen, session, events)
        for item in script:
            await trio.sleep(pause_s)
            await say(session, item)
        await session.stop()
    return events


async def converse_asyncio(script, *, pause_s=0.0, **where):
    """The same on asyncio."""
    events = []
    async with aio.open_session(timeout_s=PATIENCE_S, **where) as session, asyncio.TaskGroup() as group:
        group.create_task(listen_impatiently(session, events))
        for item in script:
            await asyncio.sleep(pause_s)
            await say(session, item)
        await session.stop()
    return events


def converse_blocking(script, *, pause_s=0.0, **where):
    """The same without an event loop."""
    events = []
    with blocking.open_session(timeout_s=PATIENCE_S, **where) as session:
        for item in script:
            time.sleep(pause_s)
            if item == "finalize":
                session.finalize()
            elif item == "configure":
                session.configure(prompt="names")
            else:
                session.send(item)
            events += session.poll()
        session.stop()
        return events + list(session)


def told(events):
    """What must be the same however often a connection was cut: all but what comes of how long a decode took."""
    check_promises([as_message(event) for event in events if not isinstance(event, Resumed)])
    kinds = ("speech_start", "speech_end", "final", "stopped")
    messages = [as_message(event) for event in events if event.type in kinds]
    plain = [{key: value for key, value in line.items() if key not in ("event_seq", "timing")} for line in messages]
    return sorted(plain, key=lambda line: kinds.index(line["type"]))


def each_once(events):
    """Interims may be missing: a program that does not take them finds the newest one alone."""
    numbers = [event.event_seq for event in events if not isinstance(event, Resumed)]
    return numbers == sorted(set(numbers))


async def cut_run(daemon, directory, script, plan, *, seed, **options):
    """One session over a proxy that cuts it; its kind, its pace and its transport by turns. Returns events and cuts."""
    directory.mkdir()
    options |= {"pause_s": 0.003 * (seed // 6 % 2)}
    async with cutting(daemon.audio, directory, plan) as proxy:
        where = {"tcp": TcpAddress(port=proxy.port)} if seed // 3 % 2 else {"socket_path": proxy.control}
        if seed % 3 == 0:
            return await converse(script, **where, **options), proxy.made
        if seed % 3 == 1:
            run = partial(asyncio.run, converse_asyncio(script, **where, **options))
        else:
            run = partial(converse_blocking, script, **where, **options)
        return await trio.to_thread.run_sync(run, abandon_on_cancel=True), proxy.made


async def cut_often(daemon, tmp_path, scripts, *, cuts, each, up_bytes, down_bytes, beside=10, **options):
    """Sessions until so many cuts were made; every one heard what its uninterrupted twin did. Returns the cuts."""
    expected = [told(await converse(script, socket_path=daemon.control, **options)) for script in scripts]
    made, limiter = [], trio.CapacityLimiter(beside)

    async def one(seed):
        async with limiter:
            if len(made) >= cuts:
                return
            plan = list(plan_of(seed, count=each, up_bytes=up_bytes, down_bytes=down_bytes))
            # Kind and transport go by the seed's last digits, and the script by others: all of them meet.
            which = seed // 12 % len(scripts)
            events, its = await cut_run(daemon, tmp_path / str(seed), scripts[which], plan, seed=seed, **options)
            made.extend(its)
            assert told(events) == expected[which], (seed, plan)
            assert each_once(events), (seed, plan)

    async with trio.open_nursery() as nursery:
        for seed in range(cuts):
            nursery.start_soon(one, seed)
    assert len(made) >= cuts
    return made


async def test_after_two_hundred_cuts_texts_are_those_of_the_uninterrupted_run(fake, tmp_path, speech, watchdog):
    scripts = [list(script_of(speech, seed)) for seed in range(4)]
    made = await cut_often(
        fake, tmp_path, scripts, cuts=200, each=5, up_bytes=len(speech) // 2, down_bytes=4_000, **STEADY, label="cut"
    )
    assert {cut.how for cut, _ in made} == {"fin", "reset", "half_open"}
    assert {cut.direction for cut, _ in made} == {"up", "down"}
    assert {cut.lag_s for cut, _ in made} == {0.0, 0.005, 0.03}
    forget(fake)


async def test_with_a_model_that_decodes_texts_are_the_same_too(serve, tmp_path, watchdog):
    daemon = serve("--tcp", "off", "--model", "demo")
    pcm = read_pcm(SAMPLE)[: 3 * 32_000]
    steady = {**STEADY, "interim": False, "beside": 1}
    scripts = [list(script_of(pcm, seed=7))]
    await cut_often(daemon, tmp_path, scripts, cuts=6, each=2, up_bytes=len(pcm) // 2, down_bytes=3_000, **steady)
    forget(daemon)


async def test_what_was_said_before_the_daemon_stops_is_told_over_connections_that_are_cut(serve, tmp_path, watchdog):
    daemon = serve("--tcp", "off", "--model", "fake")
    pcm = read_pcm(DATA / "light.flac")
    options = {
        "endpointing": False,
        "interim": False,
    }
    chance, sessions, heard = random.Random(5), 12, []
    expected = [
        event for event in await converse([pcm], socket_path=daemon.control, **options) if event.type == "final"
    ]

    async def one(number, *, task_status):
        cuts = [
            Cut(
                direction="down",
                after_bytes=chance.randrange(1, 2_000),
                how=chance.choice(["fin", "reset", "half_open"]),
                lag_s=chance.choice([0.0, 0.005]),
            )
            for _ in range(2)
        ]
        directory = tmp_path / str(number)
        directory.mkdir()
        async with (
            cutting(daemon.audio, directory, [None, *cuts]) as proxy,
            open_session(socket_path=proxy.control, timeout_s=PATIENCE_S, **options) as session,
        ):
            await session.send(pcm)
            task_status.started(proxy)
            heard.append([event async for event in session if not isinstance(event, Resumed)])

    async with trio.open_nursery() as nursery:
        proxies = [await nursery.start(one, number) for number in range(sessions)]
        await heard_all(daemon, len(pcm) / 32_000)
        daemon.terminate()
        for proxy in proxies:
            proxy.cut_all()
    forget(daemon)
    assert [[event.type for event in events] for events in heard] == sessions * [
        ["speech_start", "speech_end", "final", "stopped"]
    ]
    assert {(events[2].text, events[2].reason) for events in heard} == {(expected[0].text, "drain")}
    assert all(each_once(events) for events in heard)
    assert sum(len(proxy.made) for proxy in proxies) >= sessions


async def test_while_a_proxy_is_restarted_a_program_notices_nothing(fake, tmp_path, speech, watchdog):
    script = list(script_of(speech, 3))
    expected = told(await converse(script, socket_path=fake.control, **STEADY))
    async with cutting(fake.audio, tmp_path) as proxy, trio.open_nursery() as nursery:
        events, half = [], len(script) // 2
        async with open_session(socket_path=proxy.control, timeout_s=PATIENCE_S, **STEADY) as session:
            nursery.start_soon(listen, session, events)
            for item in script[:half]:
                await say(session, item)
            proxy.closed = True
            proxy.cut_all()
            for item in script[half:]:
                await say(session, item)
            while proxy.connections < 4:  # the first one, and some that are thrown out  # noqa: ASYNC110
                await trio.sleep(0.02)
            proxy.closed = False
            await session.stop()
            while not events or not isinstance(events[-1], Stopped):  # noqa: ASYNC110 - the other task tells nobody
                await trio.sleep(0.02)
    forget(fake)
    assert told(events) == expected
    assert sum(isinstance(event, Resumed) for event in events) == 1


async def test_who_leaves_early_leaves_nothing_behind(fake, watchdog):
    await gone(fake)
    async with open_session(socket_path=fake.control) as session:
        await session.send(bytes(32_000))
    await gone(fake)
    with blocking.open_session(socket_path=fake.control) as session:
        session.send(bytes(32_000))
    await gone(fake)

    async def leave():
        async with aio.open_session(socket_path=fake.control) as session:
            await session.send(bytes(32_000))

    await trio.to_thread.run_sync(asyncio.run, leave())
    await gone(fake)


async def test_sttctl_listen_goes_on_and_says_so_on_standard_error_alone(fake, tmp_path, watchdog):
    recording = tmp_path / "speech.wav"
    with wave.open(str(recording), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(read_pcm(DATA / "light.flac"))
    async with cutting(fake.audio, tmp_path, [Cut(direction="up", after_bytes=30_000)]) as proxy:
        command = [str(STTCTL), "--socket", str(proxy.control), "listen", "--file", str(recording)]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    assert [line for line in done.stdout.decode().splitlines() if "..." not in line] == ["w1 w2 w3 w4 w5 w6"]
    assert done.stderr.decode().count("the connection was lost for") == 1
    assert len(proxy.made) == 1
