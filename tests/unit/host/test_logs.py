"""What reaches the terminal, a pipe, a JSON reader and journald, and what must not."""

import contextlib
import io
import json
import logging
import os
import socket
import sys

import pytest

from sttd.host import logs


@pytest.fixture(autouse=True)
def restore_logging():
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        if handler not in before:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)
    for package in ("sttd", "sttd_client"):
        logging.getLogger(package).setLevel(logging.NOTSET)


@pytest.fixture
def log():
    return logs.get("sttd.test")


def text_lines(stream):
    """The lines without their clock."""
    return [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()]


def test_text_is_the_message_and_its_fields(log):
    stream = io.StringIO()
    logs.configure(format="text", stream=stream)
    log.info("session %s", "opened", session="s1", uid=1000, lag_s=0.123456789, label="two words", empty="")
    assert text_lines(stream) == [
        'info    session opened session=s1 uid=1000 lag_s=0.123457 label="two words" empty=""'
    ]


@pytest.mark.parametrize("evil", ["x\n12:00:00 error   fake", "x\r\x1b[2J", "x\u2028y"])
def test_no_value_and_no_message_forges_a_line(log, evil):
    stream = io.StringIO()
    logs.configure(format="text", stream=stream)
    log.info("opened", label=evil)
    log.info(evil)
    assert len(stream.getvalue().splitlines()) == 2
    assert "\x1b" not in stream.getvalue()


def test_no_value_forges_a_field(log):
    stream = io.StringIO()
    logs.configure(format="text", stream=stream)
    log.info("opened", label='a" uid=0')
    assert text_lines(stream) == [r'info    opened label="a\" uid=0"']


@pytest.mark.parametrize("field", ["text", "transcript", "prompt", "hotwords", "audio", "payload", "words"])
@pytest.mark.parametrize("form", ["text", "json"])
def test_what_was_said_is_withheld_above_debug(log, field, form):
    stream = io.StringIO()
    logs.configure(format=form, level="debug", stream=stream)
    log.warning("decoded", **{field: "my secret"})
    assert "secret" not in stream.getvalue()
    assert "(withheld)" in stream.getvalue()
    log.debug("decoded", **{field: "my secret"})
    assert "secret" in stream.getvalue()


def test_levels_hold_for_sttd_and_libraries_are_held_to_warnings(log):
    stream = io.StringIO()
    logs.configure(format="text", level="debug", stream=stream)
    log.debug("shown")
    logging.getLogger("faster_whisper").info("hidden")
    logging.getLogger("faster_whisper").warning("also shown")
    assert text_lines(stream) == ["debug   shown", "warning also shown"]


def test_a_short_name_is_sttd_s():
    stream = io.StringIO()
    logs.configure(format="text", stream=stream)
    logs.get("service").info("shown")
    assert text_lines(stream) == ["info    shown"]
    assert logs.get("service").logger is logs.get("sttd.service").logger


def test_configuring_again_replaces(log):
    first, second = io.StringIO(), io.StringIO()
    logs.configure(format="text", stream=first)
    logs.configure(format="json", level="error", stream=second)
    log.error("once")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["message"] == "once"
    log.warning("not at this level")
    assert len(second.getvalue().splitlines()) == 1


def test_bound_fields_come_first_and_can_be_overridden(log):
    stream = io.StringIO()
    logs.configure(format="text", stream=stream)
    session = log.bind(session="s1", uid=1000).bind(preset="demo")
    session.warning("late", uid=0)
    assert text_lines(stream) == ["warning late session=s1 uid=0 preset=demo"]


def test_a_traceback_is_indented_under_its_line(log):
    stream = io.StringIO()
    logs.configure(format="text", stream=stream)
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed", session="s1")
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith("error   failed session=s1")
    assert lines[-1] == "    ValueError: broken"
    assert all(line.startswith("    ") for line in lines[1:])


def test_json_keeps_types_and_cannot_be_overwritten_by_a_field(log):
    stream = io.StringIO()
    logs.configure(format="json", stream=stream)
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed", uid=1000, logger="mine", path=os.sep)
    line = json.loads(stream.getvalue())
    assert (line["level"], line["field_logger"], line["uid"], line["logger"]) == ("error", "mine", 1000, "sttd.test")
    assert line["traceback"].endswith("ValueError: broken")
    assert line["time"].endswith("+00:00")


def connected_to_the_journal(monkeypatch, stream):
    status = os.fstat(stream.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")


def test_text_on_a_journal_pipe_carries_priorities_on_every_line(log, monkeypatch, tmp_path):
    with open(tmp_path / "stderr", "w+") as stream:
        connected_to_the_journal(monkeypatch, stream)
        logs.configure(format="text", level="debug", stream=stream)
        log.info("fine")
        log.debug("detail")
        log.critical("worst")
        try:
            raise ValueError("broken")
        except ValueError:
            log.exception("failed")
        stream.seek(0)
        lines = stream.read().splitlines()
    assert lines[:4] == ["<6>fine", "<7>detail", "<2>worst", "<3>failed"]
    assert lines[-1] == "<3>    ValueError: broken"


@pytest.fixture
def journald(tmp_path, monkeypatch):
    """A stand-in for journald's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "socket"))
        sock.settimeout(2)
        monkeypatch.setattr(logs.JournalHandler.__init__, "__kwdefaults__", {"address": str(tmp_path / "socket")})
        yield sock


def entry(datagram):
    """The fields of one native-protocol datagram."""
    fields = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
            datagram = rest
        else:
            name, size = line, int.from_bytes(rest[:8], "little")
            value, datagram = rest[8 : 8 + size], rest[9 + size :]
        fields[name.decode()] = value.decode()
    return fields


def test_auto_speaks_to_journald_when_stderr_is_the_journal(log, journald, monkeypatch, tmp_path):
    with open(tmp_path / "stderr", "w+") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        connected_to_the_journal(monkeypatch, stream)
        logs.configure()
        log.warning("late", session="s1", uid=1000, preset="demo", text="my secret")
        assert stream.tell() == 0
    fields = entry(journald.recv(65536))
    assert fields["MESSAGE"] == "late session=s1 uid=1000 preset=demo text=(withheld)"
    assert (fields["PRIORITY"], fields["SYSLOG_IDENTIFIER"], fields["LOGGER"]) == ("4", "sttd", "sttd.test")
    assert (fields["STTD_SESSION"], fields["STTD_UID"], fields["STTD_PRESET"]) == ("s1", "1000", "demo")
    assert fields["STTD_TEXT"] == "(withheld)"
    assert fields["CODE_FILE"] == __file__


def test_auto_is_text_without_a_journal(log, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    logs.configure(stream=stream)
    log.info("here")
    assert text_lines(stream) == ["info    here"]


def test_a_field_with_line_breaks_stays_one_field(log, journald):
    logs.configure(format="journal")
    log.info("opened", label="x\nPRIORITY=0\nMESSAGE=fake")
    fields = entry(journald.recv(65536))
    assert fields["STTD_LABEL"] == "x\nPRIORITY=0\nMESSAGE=fake"
    assert fields["PRIORITY"] == "6"


def test_a_traceback_reaches_the_journal(log, journald):
    logs.configure(format="journal")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed")
    assert entry(journald.recv(65536))["MESSAGE"].endswith("ValueError: broken")


def test_an_entry_too_large_for_a_datagram_goes_as_a_sealed_file(log, journald):
    logs.configure(format="journal")
    log.info("large", label="x" * 1_000_000)
    data, ancillary, _, _ = journald.recvmsg(16, socket.CMSG_SPACE(4))
    assert data == b""
    memory = int.from_bytes(ancillary[0][2], sys.byteorder)
    try:
        fields = entry(os.pread(memory, 4_000_000, 0))
        with pytest.raises(PermissionError):
            os.write(memory, b"x")
    finally:
        os.close(memory)
    assert fields["STTD_LABEL"] == "x" * 1_000_000


def test_a_journald_that_does_not_read_costs_records_and_says_so(log, journald):
    logs.configure(format="journal")
    for _ in range(2000):  # more than any queue holds
        log.info("flood")
    journald.setblocking(False)
    received = 0
    with contextlib.suppress(BlockingIOError):
        while journald.recv(65536):
            received += 1
    assert received < 2000
    log.info("after")
    assert entry(journald.recv(65536))["STTD_LOST"] == str(2000 - received)
    log.info("later")
    assert "STTD_LOST" not in entry(journald.recv(65536))


def test_an_absent_journald_does_not_raise(log, journald, tmp_path):
    os.unlink(tmp_path / "socket")
    logs.configure(format="journal")
    log.error("nobody listens")
    assert logging.getLogger().handlers[-1]._lost == 1


def test_a_wrong_call_is_reported_not_raised(journald, capsys):
    handler = logs.JournalHandler()
    handler.handle(logging.LogRecord("sttd.test", logging.INFO, __file__, 1, "one %s %s", ("argument",), None))
    handler.close()
    assert "not enough arguments" in capsys.readouterr().err
