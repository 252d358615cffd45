"""Every sub-command of sttctl, declared once: the parser, the help, the completions and the man page come from here.

What a verb of the control plane takes is declared in `sttd.wire.verbs`, what a session takes in `sttd.options`;
arguments that stand for one of these are derived from there.
"""

from __future__ import annotations

from collections.abc import Mapping

from sttd_client.ctl.declare import Argument, Command, from_option, from_verb

FORMATS = ("txt", "srt", "vtt", "json", "jsonl", "tsv")
SHELLS = ("bash", "zsh", "fish")


COMMON = (
    Argument(names=("--json",), kind="flag", summary="print JSON, for programs"),
    Argument(
        names=("--socket",),
        metavar="PATH",
        completes="file",
        summary="the daemon's control socket; default: $STTD_SOCKET, else this user's daemon, else the system's",
    ),
)


def topics() -> tuple[str, ...]:
    """What events are about."""
    from sttd.wire.verbs import TOPICS

    return TOPICS


def methods() -> tuple[str, ...]:
    """The verbs of the control plane."""
    from sttd.wire.verbs import VERBS

    return tuple(VERBS)


def dictation() -> tuple[Argument, ...]:
    """How `dictate` is to be; what is left out is as `[dictation]` in the user's file says."""
    from sttd_client.dictation.names import NAMES

    return (
        Argument(
            names=("ACTION",),
            dest="action",
            count="?",
            choices=("start", "stop", "cancel", "bind", "status", "quit"),
            summary="for key bindings: do this and return; `bind` asks the desktop for keys, where it has some to give",
        ),
        Argument(names=("--toggle",), kind="flag", summary="for key bindings: start, or stop what was started"),
        Argument(names=("--once",), kind="flag", summary="stop at the first pause"),
        Argument(
            names=("--hold",),
            kind="flag",
            summary="a key is held between `start` and `stop`: pauses end nothing, the release does so at once",
        ),
        Argument(names=("--revise",), kind="flag", summary="type unsure text at once, and take back what changed"),
        Argument(names=("--type",), metavar="BACKEND", choices=NAMES, summary="what types"),
        *(argument for argument in speech() if argument.names[0] not in ("--prompt", "--translate")),
        Argument(
            names=("--device",), metavar="NAME", summary="the microphone, as pw-record, parec or arecord names it"
        ),
        Argument(names=("--sound",), kind="flag", summary="a sound when it begins to listen; the microphone hears it"),
        Argument(names=("--no-notify",), kind="flag", summary="show no notification"),
    )


def speech() -> tuple[Argument, ...]:
    """What `transcribe` and `listen` ask alike of a session."""
    return (
        from_option("lang", "--language", "-l", metavar="CODE"),
        from_option("languages", "--languages", metavar="CODES", example=", such as es,en"),
        Argument(
            names=("--model", "-m"),
            metavar="PRESET",
            completes="preset",
            summary="the preset to use (default: the daemon's)",
        ),
        from_option("prompt", "--prompt", metavar="TEXT"),
        Argument(names=("--translate",), kind="flag", summary="write English, whatever is spoken"),
    )


def remote() -> tuple[Argument, ...]:
    """How `transcribe` and `listen` reach a daemon over a network."""
    return (
        Argument(
            names=("--url",),
            metavar="URL",
            summary="a daemon on another machine: wss://HOST:PORT, or ws://HOST:PORT without TLS",
        ),
        Argument(
            names=("--token-file",), metavar="FILE", completes="file", summary="file with the token that it asks for"
        ),
        Argument(
            names=("--ca",),
            metavar="FILE",
            completes="file",
            summary="certificates (PEM) to verify it by (default: those that this machine trusts)",
        ),
    )


COMMANDS: Mapping[str, Command] = {
    command.name: command
    for command in (
        Command(
            name="status",
            summary="Show the state of the daemon in one look.",
            run="status:status",
            arguments=lambda: (
                Argument(names=("--watch", "-w"), kind="flag", summary="keep it on the screen, up to date"),
                Argument(
                    names=("--interval",),
                    kind="float",
                    metavar="SECONDS",
                    summary="between two looks of --watch (default: 1)",
                ),
            ),
        ),
        Command(
            name="models", summary="List the presets: which are on disk, loaded, the default.", run="models:models"
        ),
        Command(
            name="load",
            summary="Load a preset's model, so that the next session need not wait for it.",
            run="models:load",
            arguments=lambda: from_verb("load", positional="preset"),
            details="The options stay in force for sessions of this preset until the next load or reload.",
        ),
        Command(
            name="unload",
            summary="Unload models and give their memory back.",
            run="models:unload",
            arguments=lambda: (
                *from_verb("unload", positional="preset"),
                Argument(names=("--all",), kind="flag", summary="unload every model; the same as naming none"),
            ),
            details="A model in use goes when its users are done: nobody's speech is cut.",
        ),
        Command(
            name="pull",
            summary="Download a model.",
            run="models:pull",
            arguments=lambda: from_verb("pull", positional="model"),
            details="The daemon downloads, into its own model directory. Interrupting leaves what has arrived; "
            "the next pull goes on from there.",
        ),
        Command(
            name="sessions",
            summary="List the running sessions that you may see.",
            run="sessions:sessions",
            arguments=lambda: (
                Argument(names=("--limit",), kind="int", metavar="N", summary="show so many at most (default: all)"),
            ),
        ),
        Command(
            name="close",
            summary="End a session; its client gets its finals first.",
            run="sessions:close",
            arguments=lambda: from_verb("close_session", positional="session"),
        ),
        Command(
            name="drain",
            summary="Take no new sessions; those that run go on to their end.",
            run="draining:drain",
            arguments=lambda: (
                Argument(names=("--wait",), kind="flag", summary="return when the last session has ended"),
                Argument(
                    names=("--timeout",),
                    kind="float",
                    metavar="SECONDS",
                    summary="with --wait: wait no longer than this (default: as long as it takes)",
                ),
            ),
            details="`/ready` answers 503 from then on, so a load balancer sends nobody else. Exit status 6: the time "
            "is over and sessions still run; nothing was done to them. A restart or `undrain` ends it.",
        ),
        Command(name="undrain", summary="Take new sessions again.", run="draining:undrain"),
        Command(
            name="config",
            summary="Show the configuration in effect, and where each value comes from.",
            run="configuration:config",
            arguments=lambda: (
                Argument(names=("KEY",), dest="key", count="?", summary="show this section or value only"),
            ),
        ),
        Command(
            name="reload",
            summary="Make the daemon read its configuration again.",
            run="configuration:reload",
            details="A file that does not hold changes nothing and is an error.",
        ),
        Command(
            name="watch",
            summary="Print what happens in the daemon, as it happens.",
            run="watch:watch",
            arguments=lambda: (
                Argument(
                    names=("TOPIC",),
                    dest="topics",
                    count="*",
                    choices=topics(),
                    summary="what to hear about (default: all)",
                ),
            ),
        ),
        Command(
            name="transcribe",
            summary="Transcribe files: any audio or video that the daemon can decode.",
            run="transcribe:transcribe",
            arguments=lambda: (
                Argument(
                    names=("FILE",),
                    dest="files",
                    count="+",
                    completes="file",
                    summary="what to transcribe; - is standard input",
                ),
                Argument(
                    names=("--format", "-f"),
                    choices=FORMATS,
                    summary="of the transcript (default: what -o ends in, or txt)",
                ),
                Argument(
                    names=("--output", "-o"),
                    metavar="PATH",
                    completes="file",
                    summary="write there; a directory where there are several files",
                ),
                *speech(),
                *remote(),
                Argument(
                    names=("--words",),
                    kind="flag",
                    summary="list words with their times in json, time subtitles by them",
                ),
                Argument(names=("--quiet", "-q"), kind="flag", summary="show no progress"),
            ),
            details="The file is sent as it is and decoded by the daemon, as work that never delays anybody's live "
            "speech. Output files appear when they are complete; an interrupted run leaves none. Where a file "
            "breaks off or a part of it cannot be decoded, the transcript says what is missing, and the exit status is "
            "that of the error.",
        ),
        Command(
            name="listen",
            summary="Show live captions of the microphone, of what the machine plays, or of both.",
            run="listen:listen",
            arguments=lambda: (
                *speech(),
                *remote(),
                Argument(names=("--system",), kind="flag", summary="hear what the machine plays, not the microphone"),
                Argument(
                    names=("--both",),
                    kind="flag",
                    summary="hear the microphone and what the machine plays, and say which is which",
                ),
                Argument(
                    names=("--names",),
                    metavar="A,B",
                    summary="with --both: what microphone and machine are called (default: you,system)",
                ),
                Argument(
                    names=("--device",),
                    metavar="NAME",
                    summary="the microphone, as pw-record, parec or arecord names it (default: the default one)",
                ),
                Argument(
                    names=("--sink",),
                    metavar="NAME",
                    summary="the output that is heard, as `pactl list short sinks` names it (default: the default one)",
                ),
                Argument(
                    names=("--output", "-o"),
                    metavar="FILE",
                    completes="file",
                    summary="write a transcript there, each utterance as soon as it is final",
                ),
                Argument(
                    names=("--format", "-f"),
                    choices=FORMATS,
                    summary="of the transcript (default: what -o ends in)",
                ),
                Argument(names=("--force",), kind="flag", summary="overwrite the file that is there"),
                Argument(
                    names=("--words",),
                    kind="flag",
                    summary="list words with their times in json, time subtitles by them",
                ),
                Argument(names=("--once",), kind="flag", summary="stop after the first utterance"),
                Argument(
                    names=("--file",),
                    metavar="WAV",
                    completes="file",
                    summary="hear this file instead, as fast as it was spoken",
                    hidden=True,
                ),
            ),
            details="Records through PipeWire, PulseAudio or ALSA, with whichever of pw-record, parec and arecord fits "
            "what runs here; ALSA alone cannot record what the machine plays. Ctrl-C ends it; what was being said is "
            "still transcribed. `sttctl listen --both -o call.srt` makes subtitles of a call: each says who spoke, "
            "they are in order of time, and the file is whole at every moment, also after the program was killed. "
            "`sttctl doctor` says what can be heard here.",
        ),
        Command(
            name="dictate",
            summary="Type what is said into the focused window.",
            run="dictate:dictate",
            arguments=dictation,
            details="Stable text is typed as it comes, and no letter is taken back unless `--revise` or the speaker "
            'says so ("scratch that"). Without ACTION and `--toggle` it dictates until Ctrl-C, or with `--once` until '
            "the first pause. The first call starts an agent, which keeps a session ready and leaves when it was not "
            "needed for a quarter of an hour. Phrases, replacements and settings are in ~/.config/sttd/dictation.toml; "
            "`sttctl doctor` says what can type in this session.",
        ),
        Command(
            name="doctor",
            summary="Look for what is wrong, and say in plain words what to do.",
            run="doctor:doctor",
        ),
        Command(
            name="raw",
            summary="Speak the control protocol by hand: JSON lines in, JSON lines out.",
            run="raw:raw",
            arguments=lambda: (
                Argument(
                    names=("METHOD",),
                    dest="method",
                    count="?",
                    choices=methods(),
                    summary="call this one method and stop",
                ),
                Argument(names=("PARAMS",), dest="params", count="?", summary="its parameters, as a JSON object"),
            ),
            details='Without METHOD each line of standard input is a request such as {"method": "load", "params": '
            '{"preset": "base"}}. Requests run at the same time; answers come as they are ready, under the "id" '
            "of the request, or its number.",
        ),
        Command(
            name="completion",
            summary="Print the completion script of a shell.",
            run="completion:completion",
            arguments=lambda: (Argument(names=("SHELL",), dest="shell", choices=SHELLS, summary="the shell"),),
        ),
    )
}
