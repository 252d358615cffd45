"""Switches are set and cores forbidden in a process of its own: neither can be taken back."""

import subprocess
import sys

from sttd.host import privacy


def output_of(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_after_it_no_core_is_written_and_no_limit_brings_it_back():
    script = (
        "import resource\n"
        "from sttd.host import privacy\n"
        "print(privacy.keeps_memory())\n"
        "privacy.keep_memory()\n"
        "print(privacy.keeps_memory(), *resource.getrlimit(resource.RLIMIT_CORE))\n"
    )
    assert output_of(script) == ["False", "True", "0", "0"]
    assert not privacy.keeps_memory()  # that process alone


def test_the_libraries_that_would_report_home_see_their_switches():
    """Asked of the libraries themselves, as far as they say."""
    script = (
        "import os\n"
        "for name in ('HF_HUB_DISABLE_TELEMETRY', 'ORT_DISABLE_TELEMETRY'):\n"
        "    os.environ.pop(name, None)\n"
        "from sttd.host import privacy\n"
        "privacy.silence(os.environ)\n"
        "from huggingface_hub import constants\n"
        "print(constants.HF_HUB_DISABLE_TELEMETRY, os.environ['ORT_DISABLE_TELEMETRY'])\n"
    )
    assert output_of(script) == ["True", "1"]
