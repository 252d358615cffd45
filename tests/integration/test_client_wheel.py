"""The client library as its own distribution: built, installed where nothing of the daemon is, and used from there."""

import importlib.metadata
import subprocess
import sys
import textwrap
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import sttd
from tests.running import PATIENCE_S, RunningDaemon

pytest.importorskip("hatchling", reason="make it with `make setup`: the environment is older than this test")

ROOT = Path(__file__).parents[2]
SHORT = ROOT / "tests" / "data" / "light.flac"
HEAVY = ("sttd", "trio", "rich", "numpy", "av", "ctranslate2", "faster_whisper", "soxr", "webrtcvad", "huggingface_hub")


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=PATIENCE_S, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory, cwd=ROOT / "clients")
    (path,) = directory.iterdir()
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of an environment that has the wheel, and of other packages those alone that it asks for.

    They are those of this environment: no index is needed. pip finds out whether they are enough.
    """
    directory = tmp_path_factory.mktemp("programs")
    venv.create(directory, with_pip=False, symlinks=True)
    (packages,) = directory.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        asked = importlib.metadata.PathDistribution(zipfile.Path(archive, metadata.removesuffix("METADATA"))).requires
    for name in needed(asked):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files if file.parts[0] not in ("..", "__pycache__")}:
            (packages / top).symlink_to(distribution.locate_file(top))
    interpreter = directory / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", interpreter, "install", "--quiet", "--no-index", wheel)
    return interpreter


def needed(requirements):
    """The names of these and of what they need, without extras."""
    names = set()
    for requirement in map(Requirement, requirements or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            names |= {requirement.name} | needed(importlib.metadata.requires(requirement.name))
    return names


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    running = RunningDaemon.start(tmp_path_factory.mktemp("daemon"), "--tcp", "off", "--model", "fake")
    yield running
    assert running.stop() == 0, running.log()


def test_no_file_of_the_daemon_is_in_it_and_no_import_either(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        sources = {name: archive.read(name).decode() for name in names if name.endswith(".py")}
    assert {name.split("/")[0] for name in names} == {"sttd_client", f"sttd_client-{sttd.__version__}.dist-info"}
    assert {"sttd_client/aio.py", "sttd_client/py.typed", "sttd_client/dictation/phrases.toml"} <= set(names)
    assert not [name for name in names if "demo" in name or "daemon_process" in name]
    carried = {name.removeprefix("sttd_client/_sttd/") for name in names if name.startswith("sttd_client/_sttd/")}
    of_wire = {
        f"wire/{name}.py" for name in ("__init__", "common", "cues", "jsontext", "messages", "rpc", "schema", "verbs")
    }
    assert carried == {"__init__.py", "errors.py", "fields.py", "live_text.py", "options.py"} | of_wire
    lines = [line.split() for source in sources.values() for line in source.splitlines()]
    modules = {line[1] for line in lines if len(line) > 1 and line[0] in ("from", "import")}
    assert not {module for module in modules if module.split(".")[0] == "sttd"}
    assert "sttd_client._sttd.wire.messages" in modules


def test_it_asks_for_nothing_that_sttd_does_not_ask_for_in_the_same_words():
    """So the releases that are locked and tested are those of the client, too."""
    client, whole = (
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"] for folder in ("clients", ".")
    )
    extras = [*client["optional-dependencies"]["trio"], *client["optional-dependencies"]["sttctl"]]
    asked = {word for word in [*client["dependencies"], *extras] if not word.startswith("sttd-client")}
    assert asked - set(whole["dependencies"]) == {"wsproto>=1.2"}  # which trio-websocket asks for
    assert client["scripts"].items() <= whole["scripts"].items()
    assert client["requires-python"] == whole["requires-python"]


def test_sessions_and_calls_work_without_anything_of_the_daemon(python, daemon):
    program = f"""
        import asyncio, importlib.util, sys
        import sttd_client
        from sttd_client import Final, Stopped, aio, blocking
        from sttd_client.errors import ModelError

        assert not [name for name in {HEAVY} if importlib.util.find_spec(name)]
        pcm = b"\\1\\0" * 16_000

        async def main():
            async with aio.open_control({str(daemon.control)!r}) as control:
                assert (await control.call("ping")) is not None
            try:
                async with aio.open_session(socket_path={str(daemon.control)!r}, model="nonsense"):
                    pass
            except ModelError as error:
                assert error.code == "model_not_found"
            async with aio.open_session(socket_path={str(daemon.control)!r}, endpointing=False) as session:
                await session.send(pcm)
                await session.finalize()
                await session.stop()
                return [event async for event in session]

        def plain():
            with blocking.open_session(socket_path={str(daemon.control)!r}, endpointing=False) as session:
                session.send(pcm)
                session.finalize()
                session.stop()
                return list(session)

        for events in (asyncio.run(main()), plain()):
            assert isinstance(events[-1], Stopped)
            print(*(event.text for event in events if isinstance(event, Final)))
        with blocking.open_control({str(daemon.control)!r}) as control:
            print(control.call("status")["server"]["version"])
        loaded = {{name.partition(".")[0] for name in sys.modules}}
        print(*sorted(name for name in loaded - sys.stdlib_module_names if not name.startswith("_")))
    """
    said = run(python, "-I", "-X", "dev", "-W", "error", "-c", textwrap.dedent(program)).splitlines()
    assert said[:2] == ["w1 w2 w3", "w1 w2 w3"]
    assert said[2] == sttd.__version__
    assert set(said[3].split()) <= {"attr", "attrs", "cython_runtime", "h11", "msgpack", "sttd_client", "wsproto"}


def test_sttctl_works_and_says_what_a_command_lacks(python, daemon):
    sttctl = python.with_name("sttctl")
    assert run(sttctl, "--version").split()[-1] == sttd.__version__
    assert run(sttctl, "--socket", daemon.control, "transcribe", SHORT).startswith("w1 w2 w3")
    assert "fake" in run(sttctl, "--socket", daemon.control, "status")
    command = [sttctl, "--socket", daemon.control, "listen", "--file", SHORT]
    lacking = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (lacking.returncode, lacking.stderr) == (1, "sttctl: this needs rich: pip install 'sttd-client[sttctl]'\n")
