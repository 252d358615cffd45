"""The control plane's golden frames: the codec, another MessagePack library, and the plane itself agree on them."""

import json
from pathlib import Path

import msgpack
import pytest

from sttd.errors import ProtocolError
from sttd.wire import rpc, verbs
from tests.control_plane import open_plane

GOLDEN = json.loads(Path(__file__).with_name("control.json").read_text())


def vectors(section):
    return pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in GOLDEN[section]])


@vectors("conversation")
def test_frames_are_read_and_written_as_they_stand(vector):
    frame, message = bytes.fromhex(vector["hex"]), vector["message"]
    assert msgpack.unpackb(frame) == message
    (decoded,) = rpc.RpcDecoder().receive_data(frame)
    match decoded:
        case rpc.Request(msgid=msgid, method=method, params=params):
            assert message == [0, msgid, method, params]
            assert rpc.encode_request(msgid, method, params=params[0] if params else None) == frame
            verbs.parse_params(method, params)
        case rpc.Response(msgid=msgid, error=error, result=result):
            assert message == [1, msgid, error, result]
            assert rpc.encode_response(msgid, error=error, result=result) == frame
        case rpc.Notification(method=method, params=params):
            assert message == [2, method, params]
            assert rpc.encode_notification(method, params=params[0]) == frame
            assert set(params[0]) >= {"seq", "topic"} or method == "progress"


@vectors("refused")
def test_the_codec_and_the_parser_refuse(vector):
    decoder = rpc.RpcDecoder()
    (message,) = decoder.receive_data(bytes.fromhex(vector["hex"]))
    if isinstance(message, rpc.Malformed):
        assert vector["closes"]
        assert message.msgid == vector["msgid"]
        assert vector["code"] in (None, message.error.code)
    elif vector["code"] is not None:
        with pytest.raises(ProtocolError) as caught:
            verbs.parse_params(message.method, message.params)
        assert caught.value.code == vector["code"]
        assert not vector["closes"]
    else:
        assert isinstance(message, rpc.Response)


@vectors("refused")
async def test_the_daemon_answers_and_closes_as_it_says(vector, tmp_path):
    async with open_plane(tmp_path) as plane, plane.connect() as peer:
        await peer.stream.send_all(bytes.fromhex(vector["hex"]))
        if not vector["closes"]:
            await peer.send([0, 99, "ping", []])
            await peer.stream.send_eof()
        answers = [(answer[1], answer[2] and answer[2]["code"]) for answer in await peer.receive_all()]
        expected = [(vector["msgid"], vector["code"])] if vector["code"] else []
        assert sorted(answers) == expected + ([] if vector["closes"] else [(99, None)])
        assert await plane.is_alive()
