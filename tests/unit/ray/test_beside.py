"""What the cluster needs, who runs one machine does not have."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PURE = sorted(path.stem for path in (ROOT / "deploy" / "ray" / "sttd_ray").glob("*.py") if path.stem != "app")
FOREIGN = {"ray", "starlette", "fastapi", "sttd_ray"}

LOOK = f"""
import json, sys
from sttd import cli
from sttd.plan import Sources, make_plan
import sttd.daemon, sttd.service
make_plan(Sources(config_file=None, environ={{}}, flags={{}}))
print(json.dumps(sorted({FOREIGN!r} & {{name.partition(".")[0] for name in sys.modules}})))
"""


def test_a_daemon_imports_nothing_of_the_cluster():
    shown = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True).stdout
    assert json.loads(shown) == []


@pytest.mark.parametrize("name", PURE)
def test_what_decides_imports_no_ray(name):
    tree = ast.parse((ROOT / "deploy" / "ray" / "sttd_ray" / f"{name}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {module.partition(".")[0] for module in imported} & (FOREIGN - {"sttd_ray"})
    assert "sttd_ray.app" not in imported


def test_the_extra_is_in_no_lock():
    for lock in ("requirements.lock", "requirements-dev.lock"):
        assert not [line for line in (ROOT / lock).read_text().splitlines() if line.startswith(("ray==", "fastapi=="))]
