"""Setting up on a fresh machine: which Python `make` takes, and what is pinned for each."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYTHONS = ("3.11", "3.12", "3.13")


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A folder with what `make setup` reads, and no environment."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(fresh: Path, name: str, script: str) -> None:
    file = fresh / "bin" / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def make(fresh: Path, *words: str) -> subprocess.CompletedProcess:
    """`make` with the programs of `fresh / "bin"` and no Python beside them."""
    for name in ("sh", "make", "touch"):
        found = shutil.which(name)
        assert found
        if not (fresh / "bin" / name).exists():
            (fresh / "bin" / name).symlink_to(found)
    ours = ("PYTHON", "MAKEFLAGS", "MAKELEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        ["make", *words], cwd=fresh, env=environment | {"PATH": str(fresh / "bin")}, capture_output=True, text=True
    )


def test_make_takes_the_newest_python_that_runs_and_can_make_an_environment(fresh):
    program(fresh, "python3.13", "exit 127  # as a shim of a version that is not chosen")
    program(fresh, "python3.12", f'exec "{sys.executable}" "$@"')
    program(fresh, "python3.11", f'exec "{sys.executable}" "$@"')
    assert "\npython3.12 -m venv --clear .venv\n" in make(fresh, "-n", "setup").stdout
    assert "\npython3.11 -m venv --clear .venv\n" in make(fresh, "-n", "setup", "PYTHON=python3.11").stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [((), "make: there is no Python 3.11, 3.12 or 3.13 "), (("PYTHON=python3.14",), "make: python3.14 is no Python ")],
)
def test_where_there_is_no_python_make_says_in_one_line_what_to_do(fresh, words, told):
    program(fresh, "python3.14", f'[ "$2" = "-c" ] || exec "{sys.executable}" -c "raise SystemExit(1)"')
    done = make(fresh, "setup", *words)
    line, *rest = done.stderr.splitlines()
    assert line.startswith(told) and "apt install python3 python3-venv" in line
    assert done.returncode == 2 and len(rest) == 1  # make's own
    assert not (fresh / ".venv").exists()


def pinned(python: str) -> dict[str, str]:
    """Versions by name that are pinned for a Python on Linux."""
    here = {
        "python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux",
        "platform_machine": "x86_64", "platform_python_implementation": "CPython", "implementation_name": "cpython",
    }  # fmt: skip
    found = {}
    for line in (REPOSITORY / "requirements.txt").read_text().splitlines():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(here):
            name = canonicalize_name(requirement.name)
            assert name not in found
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            found[name] = pin.version
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_what_is_asked_for_is_pinned_once_for_every_python(python):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    pins = pinned(python)
    for text in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        asked = Requirement(text)
        assert asked.specifier.contains(pins[canonicalize_name(asked.name)], prereleases=True), text


def test_the_numbers_come_from_the_same_libraries_on_every_python():
    for name in ("numpy", "scipy", "torch", "torchaudio", "diffusers", "transformers", "soundfile", "pyloudnorm"):
        assert len({pinned(python)[name] for python in PYTHONS}) == 1, name


def test_pins_hold_no_address():
    assert not re.search(r"://|@|--", (REPOSITORY / "requirements.txt").read_text())


def test_wandb_is_installed_with_the_package():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert any(Requirement(text).name == "wandb" for text in project["dependencies"])
