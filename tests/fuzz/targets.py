"""What is fuzzed: functions of bytes that raise where something is wrong.

Two sorts. A *wire* target hands the bytes to a codec or a machine of the wire, as a client would; whatever they are,
they mean something or are refused with an error of ours, and it does not matter how they were cut. A *property* target
draws the moves of a state machine from the bytes: the properties that the unit tests hold, tried on moves that coverage
leads to rather than chance.

`test_corpus.py` replays the corpora; `python -m tests.fuzz` looks for more.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgpack
import trio
from hypothesis.stateful import get_state_machine_test
from wsproto.frame_protocol import FrameProtocol

from sttd.errors import ProtocolError, SttdError
from sttd.session.container import decode_container
from sttd.wire import deepgram, messages, realtime_messages, rpc, wyoming, wyoming_talk
from sttd.wire.access import AccessRules
from sttd.wire.deepgram_query import parse_query
from sttd.wire.frames import FrameGuard
from sttd.wire.http import HeadReader, Request, Response
from sttd.wire.multipart import FormReader, form_head
from sttd.wire.openai_answers import Refused
from sttd.wire.openai_request import read_request
from sttd.wire.realtime_settings import RefusedError, Settings
from sttd.wire.routes import Call, Connect, Get, decide
from sttd.wire.talk import Answer, Fail, Phase, Refuse, Talk
from sttd.wire.verbs import VERBS, parse_params
from tests.unit.core.test_pooling import Week
from tests.unit.core.test_scheduling import Scheduling
from tests.unit.core.test_session_machine import Sessions
from tests.unit.core.test_stabiliser import test_stable_text_only_grows_and_starts_all_that_is_shown as stable_text
from tests.unit.core.test_utterance import test_utterances_do_not_depend_on_how_frames_are_grouped as endpointing
from tests.unit.wire.test_deepgram_channel import test_whatever_a_session_says_the_promises_hold as deepgram_channel
from tests.unit.wire.test_realtime import (
    test_whatever_comes_every_item_has_one_outcome_in_order_and_its_deltas_are_its_transcript as realtime_items,
)

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # as the daemon has it
Target = Callable[[bytes], None]

SEPARATOR = b"\xff\x00"  # between the messages of one input
BOUNDARY = b"b0undary"
_ACCESS = AccessRules(token="t", allowed_hosts=("h",), allowed_origins=("https://o",))


def _in_pieces(data: bytes) -> Iterator[bytes]:
    """The bytes, cut as the first of them says."""
    size = data[0] % 64 + 1 if data else 1
    for at in range(0, len(data), size):
        yield data[at : at + size]


def _text(data: bytes) -> str:
    """What a WebSocket library makes of the bytes of a text message; it has refused what is no UTF-8."""
    return data.decode(errors="replace")


# ---------------------------------------------------------------- codecs of streams


def rpc_stream(data: bytes) -> None:
    """MessagePack-RPC: the same however it is cut; any library reads what passes the same; parameters are judged."""
    whole = rpc.RpcDecoder().receive_data(data)
    decoder = rpc.RpcDecoder()
    pieces = [message for piece in _in_pieces(data) for message in decoder.receive_data(piece)]
    assert list(map(_comparable, pieces)) == list(map(_comparable, whole))
    unpacker = msgpack.Unpacker(strict_map_key=True)
    unpacker.feed(data)
    for message in whole:
        if isinstance(message, rpc.Malformed):
            assert message is whole[-1], "something came after the end"
            assert message.error.code in ("bad_request", "too_large")
            break
        kind, *rest = unpacker.unpack()
        match message:
            case rpc.Request(msgid=msgid, method=method, params=params):
                assert repr([kind, *rest]) == repr([0, msgid, method, params])
                if method in VERBS:
                    _refused_or(lambda method=method, params=params: parse_params(method, params))
                rpc.encode_response(msgid, result=params)
            case rpc.Response(msgid=msgid, error=error, result=result):
                assert repr([kind, *rest]) == repr([1, msgid, error, result])
            case rpc.Notification(method=method, params=params):
                assert repr([kind, *rest]) == repr([2, method, params])


def _comparable(message: Any) -> str:
    if isinstance(message, rpc.Malformed):
        return repr((message.error.code, message.error.message, message.msgid))
    return repr(message)


def frames(data: bytes) -> None:
    """WebSocket frames: the same however they are cut, and the library takes what is for it."""
    whole = _taken(data, [data])
    assert _taken(data, _in_pieces(data)) == whole
    library = FrameProtocol(client=False, extensions=[])
    library.receive_bytes(whole[1])
    for _ in library.received_frames():
        pass


def _taken(data: bytes, pieces: Any) -> tuple[list[str | bytes], bytes, str | None]:
    """The messages, the frames for the library, and what is wrong with the rest."""
    guard, held = FrameGuard(message_bytes=4096), b""
    for piece in pieces:
        held += piece
        while held and (size := guard.admit(held, now=0.0)):
            held = held[size:]
    why = None if guard.violation is None else f"{guard.violation.close_code} {guard.violation.message}"
    return [*guard.messages], bytes(guard.controls), why


def http(data: bytes) -> None:
    """A request's head: the same however it is cut; whatever it asks is answered, called or upgraded."""
    reader = HeadReader()
    whole = reader.push(data) if data else None
    cut_reader, cut = HeadReader(), None
    for piece in _in_pieces(data):
        if (cut := cut_reader.push(piece)) is not None:
            break
    if isinstance(whole, Request) and isinstance(cut, Request):
        assert (whole.method, whole.path, whole.query, whole.headers) == (cut.method, cut.path, cut.query, cut.headers)
    else:
        assert type(whole) is type(cut)
    if not isinstance(whole, Request):
        assert whole is None or whole.status in (400, 431, 501, 505), whole
        return
    for access in (None, _ACCESS):
        decision = decide(whole, access=access, port=1)
        match decision:
            case Response():
                assert 200 <= decision.status < 600
                decision.to_bytes()
            case Connect(upgrade=upgrade):
                assert isinstance(HeadReader().push(upgrade.head), Request), "the library would not read it"
            case Call(request=request):
                _refused_or(lambda request=request: form_head(request, most_bytes=1 << 20))
                _body(reader)
            case Get():
                pass
        if access is not None:
            return


def _body(reader: HeadReader) -> None:
    body = reader.body()
    try:
        for piece in body.pieces():
            assert piece
    except (SttdError, Refused):
        pass


def multipart(data: bytes) -> None:
    """A form: the same file, fields and trouble however it is cut; every field is judged."""
    whole, cut = FormReader(BOUNDARY), FormReader(BOUNDARY)
    file = whole.feed(data)
    in_pieces = b"".join(cut.feed(piece) for piece in _in_pieces(data))
    if (why := _trouble(whole)) is None:
        assert (in_pieces, cut.fields, cut.has_file) == (file, whole.fields, whole.has_file)
        _refused_or(lambda: read_request(whole.fields, has_file=whole.has_file, task="transcribe"))
    else:
        assert _trouble(cut) == why, why
        assert whole.fields == cut.fields == []


def _trouble(form: FormReader) -> str | None:
    try:
        form.finish()
    except Refused as refused:
        return refused.denial.message
    return None


def wyoming_stream(data: bytes) -> None:
    """Wyoming: the same events and samples however they are cut, and what they ask for begins before it ends."""
    whole, cut = _wyoming([data]), _wyoming(_in_pieces(data))
    assert whole == cut
    is_open = False
    for kind, *_ in whole[0]:
        match kind:
            case "Begin":
                is_open = True
            case "End":
                assert is_open, "an utterance ended that had not begun"
                is_open = False


def _wyoming(pieces: Any) -> tuple[list[tuple[Any, ...]], str | None]:
    """What is to be done, samples that follow each other as one; and why it ended."""
    reader, talk, found = wyoming.EventReader(), wyoming_talk.Talk(), list[tuple[Any, ...]]()
    try:
        for piece in pieces:
            reader.receive_data(piece)
            while (event := reader.next_event()) is not None:
                action = talk.receive(event)
                if isinstance(action, wyoming_talk.Feed):
                    if found and found[-1][0] == "Feed":
                        found[-1] = ("Feed", found[-1][1] + action.data)
                    else:
                        found.append(("Feed", action.data))
                elif action is not None:
                    if isinstance(action, wyoming.Ping):
                        wyoming.pong(action.text)
                    found.append((type(action).__name__, repr(action)))
    except ProtocolError as error:
        return found, f"{error.code} {error.message}"
    return found, None


# ---------------------------------------------------------------- messages


def client_messages(data: bytes) -> None:
    """sttd's own wire: an op or an error, and an op is written as it was read."""
    talk = Talk()
    for number, part in enumerate(data.split(SEPARATOR)):
        message: str | bytes = part[1:] if part[:1] == b"\x01" else _text(part)
        answer: Answer | None = talk.receive(message)
        match answer:
            case Refuse(error=error) | Fail(error=error):
                assert error.code
                error.message.encode()
                assert messages.parse_event(messages.encode_event("error", {**error.as_map(), "fatal": False}))
            case None:
                assert talk.phase is Phase.ENDING
            case op if not isinstance(message, bytes):
                assert messages.parse_client(messages.encode_op(op)) == op
        if talk.phase is Phase.OPENING:
            if number % 2:
                talk.not_opened(ProtocolError("no"))
            else:
                talk.opened()


def daemon_messages(data: bytes) -> None:
    """What a daemon says, as clients read it: an event, nothing, or an error."""
    _refused_or(lambda: messages.parse_event(_text(data)))


def realtime(data: bytes) -> None:
    """OpenAI Realtime: an event or a refusal; settings hold in the form in which they are shown."""
    settings = Settings()
    for part in data.split(SEPARATOR):
        try:
            event = realtime_messages.read_message(part[1:] if part[:1] == b"\x01" else _text(part))
            if isinstance(event, realtime_messages.Update):
                settings = settings.updated(event.session)
                for dialect in ("ga", "beta"):
                    shown = settings.shown(dialect)
                    json.dumps(shown).encode()
                    assert settings.updated(shown).shown(dialect) == shown, "what is shown says something else"
        except RefusedError as error:
            str(error).encode()


def deepgram_messages(data: bytes) -> None:
    """Deepgram: an address and then messages, each of which means something or is refused."""
    query, *rest = data.split(SEPARATOR)
    _refused_or(lambda: parse_query(_text(query)))
    conversation = deepgram.Conversation(channels=2)
    for part in rest:
        asked = conversation.receive(part[1:] if part[:1] == b"\x01" else _text(part))
        if isinstance(asked, deepgram.Refuse):
            asked.text.encode()
            json.loads(asked.text)
        assert not conversation.ending or isinstance(asked, deepgram.CloseStream | deepgram.Fail | None)
    splitter, whole = deepgram.Splitter(2, 3), deepgram.Splitter(2, 3)
    cut = [b"".join(parts) for parts in zip(*map(splitter.split, _in_pieces(data)), strict=True)]
    assert not data or cut == whole.split(data)


def _refused_or(read: Callable[[], object]) -> None:
    """It is read, or refused with an error of ours that can be written."""
    try:
        read()
    except (ProtocolError, RefusedError) as error:
        str(error).encode()
    except Refused as refused:
        refused.denial.message.encode()


# ---------------------------------------------------------------- containers


def container(data: bytes) -> None:
    """A file, whole and in pieces, live and not: samples, or an error of ours."""
    for live in (False, True):
        for pieces in ([data], list(_in_pieces(data))[:256]):
            trio.run(_unpack, pieces, live)


async def _unpack(pieces: list[bytes], live: bool) -> None:
    feed, receive = trio.open_memory_channel[Any](len(pieces) + 1)
    send, take = trio.open_memory_channel[Any](0)

    async def decode() -> None:
        async with send:
            try:
                await decode_container(receive, send, channel_select=None, live=live)
            except SttdError as error:
                if error.code not in ("bad_audio", "too_large", "overloaded"):
                    raise

    for piece in filter(None, pieces):
        feed.send_nowait(piece)
    feed.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(decode)
        async for frames_ in take:
            if hasattr(frames_, "shape"):
                assert frames_.shape[1] == 320
                assert abs(frames_).max(initial=0.0) <= 1.0


# ---------------------------------------------------------------- all of them


def _property(test: Any) -> Target:
    """A hypothesis test, drawn from the bytes."""
    one: Callable[[bytes], object] = test.hypothesis.fuzz_one_input

    def target(data: bytes) -> None:
        one(data)

    return target


WIRE: Mapping[str, Target] = {
    "rpc": rpc_stream,
    "frames": frames,
    "http": http,
    "multipart": multipart,
    "wyoming": wyoming_stream,
    "messages": client_messages,
    "events": daemon_messages,
    "realtime": realtime,
    "deepgram": deepgram_messages,
    "container": container,
}
PROPERTIES: Mapping[str, Target] = {
    "turn": _property(get_state_machine_test(Sessions)),
    "endpointer": _property(endpointing),
    "stabiliser": _property(stable_text),
    "realtime-items": _property(realtime_items),
    "deepgram-channel": _property(deepgram_channel),
    "scheduling": _property(get_state_machine_test(Scheduling)),
    "pooling": _property(get_state_machine_test(Week)),
}
TARGETS: Mapping[str, Target] = {**WIRE, **PROPERTIES}
