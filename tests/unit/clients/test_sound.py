"""Which program records what, on machines with one sound server or another."""

import json

import pytest
from sttd_client.sound import (
    NoSoundError,
    SoundServer,
    look,
    monitor_of,
    pipewire_server,
    pulse_server,
    recorder,
    system_recorder,
)

ALL = ("pw-record", "parec", "arecord")
NAMES = {"sinks": ("speakers", "headset"), "default_sink": "speakers", "default_source": "mic"}
PIPEWIRE = SoundServer(name="PipeWire", **NAMES)
PULSEAUDIO = SoundServer(name="PulseAudio", **NAMES)
NONE = SoundServer(name="none")

INFO = """Server String: /run/user/1000/pulse/native
Server Name: {name}
Default Sample Specification: s16le 2ch 44100Hz
Default Sink: speakers
Default Source: mic.monitor
"""
SINKS = "0\tspeakers\tmodule-null-sink.c\ts16le 2ch 44100Hz\tIDLE\n1\theadset\tx\ty\tz\n"
DUMP = [
    {"type": "PipeWire:Interface:Core"},
    {"type": "Node", "info": {"props": {"media.class": "Audio/Sink", "node.name": "speakers"}}},
    {"type": "Node", "info": {"props": {"media.class": "Audio/Source", "node.name": "mic"}}},
    {"type": "Node", "info": None},
    {
        "metadata": [
            {"key": "default.audio.sink", "value": {"name": "speakers"}},
            {"key": "default.audio.source", "value": {"name": "mic"}},
            {"key": "log.level", "value": 2},
        ]
    },
]


def having(*programs):
    return lambda program: program if program in programs else None


@pytest.fixture(autouse=True)
def programs(tmp_path, monkeypatch):
    """`programs(name, script)` installs one; of the machine's own there is none but the shell."""
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(directory))

    def install(name, script):
        program = directory / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    install("pw-record", "echo '  -P  --properties'; echo '-a --raw'")
    return install


@pytest.mark.parametrize(
    ("server", "installed", "program"),
    [
        (PIPEWIRE, ALL, "pw-record"),
        (PIPEWIRE, ("parec", "arecord"), "parec"),
        (PULSEAUDIO, ALL, "parec"),
        (PULSEAUDIO, ("pw-record", "arecord"), "arecord"),  # PipeWire has no devices where PulseAudio has them
        (NONE, ALL, "arecord"),
        (NONE, ("pw-record", "parec"), "pw-record"),
    ],
)
def test_the_microphone_is_recorded_by_the_program_whose_server_has_it(server, installed, program):
    assert recorder(server=server, which=having(*installed))[0] == program
    assert recorder(server=server, which=having()) is None


def test_what_the_machine_plays_is_recorded_from_the_default_output_and_goes_on_with_it():
    command = system_recorder(server=PIPEWIRE, which=having(*ALL))
    assert command[0] == "pw-record"
    assert "--properties={ stream.capture.sink=true }" in command
    assert not any(option.startswith("--target") for option in command)
    assert command[-2:] == ["--raw", "-"]


def test_parec_is_told_the_name_of_the_output():
    for server, installed in ((PULSEAUDIO, ALL), (PIPEWIRE, ("parec",))):
        assert "--device=speakers.monitor" in system_recorder(server=server, which=having(*installed))
    assert "--device=headset.monitor" in system_recorder("headset", server=PULSEAUDIO, which=having(*ALL))


def test_an_output_is_named_with_or_without_its_monitor():
    for name in ("headset", monitor_of("headset")):
        assert "--target=headset" in system_recorder(name, server=PIPEWIRE, which=having(*ALL))


def test_an_older_pw_record_leaves_it_to_parec(programs):
    programs("pw-record", "echo nothing of properties")
    assert system_recorder(server=PIPEWIRE, which=having(*ALL))[0] == "parec"
    with pytest.raises(NoSoundError, match="PipeWire has the sound"):
        system_recorder(server=PIPEWIRE, which=having("pw-record"))


@pytest.mark.parametrize(
    ("server", "installed", "sink", "told"),
    [
        (PIPEWIRE, (), None, "install pipewire-bin"),
        (NONE, ("arecord",), None, "arecord cannot record what the machine plays; install pipewire-bin"),
        (NONE, ALL, None, "no sound server answers"),
        (PULSEAUDIO, ("pw-record", "arecord"), None, "PulseAudio has the sound"),
        (PIPEWIRE, ALL, "nonsense", "there is no output nonsense; there are: speakers, headset"),
        (SoundServer(name="PulseAudio"), ("parec",), None, "has no output"),
    ],
)
def test_what_cannot_be_recorded_is_said_with_what_to_do(server, installed, sink, told):
    with pytest.raises(NoSoundError, match=told):
        system_recorder(sink, server=server, which=having(*installed))


def test_pactl_says_who_has_the_devices_and_what_they_are_called():
    pulse = pulse_server(INFO.format(name="pulseaudio"), SINKS)
    assert pulse == SoundServer(
        name="PulseAudio", sinks=("speakers", "headset"), default_sink="speakers", default_source="mic.monitor"
    )
    assert pulse_server(INFO.format(name="PulseAudio (on PipeWire 1.4.2)"), "").name == "PipeWire"


def test_pw_dump_says_the_same_of_pipewire():
    server = pipewire_server(json.dumps(DUMP))
    assert (server.sinks, server.default_sink, server.default_source) == (("speakers",), "speakers", "mic")
    assert pipewire_server("no json").name == "PipeWire"


def test_servers_are_asked_one_after_the_other(programs):
    assert look().name == "unknown"  # nothing is there to ask with
    programs("pactl", "exit 1")
    assert look().name == "none"
    programs("pw-dump", f"echo '{json.dumps(DUMP)}'")
    assert look() == pipewire_server(json.dumps(DUMP))
    programs("pactl", f"[ $1 = info ] && printf '%s' '{INFO.format(name='pulseaudio')}' || printf '%s' '{SINKS}'")
    assert look() == pulse_server(INFO.format(name="pulseaudio"), SINKS)


def test_nobody_is_asked_where_there_is_no_choice(programs, tmp_path):
    programs("pactl", f"echo asked > {tmp_path}/asked; exit 1")
    assert recorder(which=having("pw-record", "pactl"))[0] == "pw-record"
    assert not (tmp_path / "asked").exists()
    assert recorder(which=having("pw-record", "parec", "pactl"))[0] == "pw-record"
    assert (tmp_path / "asked").exists()
