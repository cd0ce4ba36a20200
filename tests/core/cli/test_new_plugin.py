"""``opyard new-plugin``, and that the example in this repository is what it makes."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import opyard as oy
from environments import run_python
from opyard.cli import main
from opyard.cli.new_plugin import next_steps, write_template

EXAMPLE = Path(__file__).parents[3] / "examples" / "plugin-template"
FILES = ["README.md", "pyproject.toml", "src/opyard_acme/__init__.py", "tests/test_acme.py"]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {"__pycache__", ".ruff_cache"} & set(path.parts)
    }


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["new-plugin", *arguments])
    return ended.value.code


def test_the_example_is_what_the_generator_makes(tmp_path: Path):
    write_template("template", tmp_path)
    assert contents(EXAMPLE) == contents(tmp_path), (
        "run `opyard new-plugin template` anew into examples/plugin-template"
    )


def test_the_source_is_short():
    source = (EXAMPLE / "src" / "opyard_template" / "__init__.py").read_text(encoding="utf-8")
    without_docstrings = ast.unparse(ast.parse(source)).splitlines()
    assert len([line for line in without_docstrings if line.strip()]) < 30


def test_a_plugin_is_created_with_its_name_everywhere(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("acme") == 0
    assert sorted(contents(tmp_path / "opyard-acme")) == FILES
    assert all(b"PLUGIN" not in text and b"VERSION" not in text for text in contents(tmp_path).values())
    assert f'"opyard[cpu]~={oy.__version__}"' in (tmp_path / "opyard-acme" / "pyproject.toml").read_text()
    out = capsys.readouterr().out
    assert "wrote opyard-acme/README.md" in out
    assert out.endswith("\n  ".join(["\nNext, type:", "cd opyard-acme", *next_steps("acme")]) + "\n")


@pytest.mark.parametrize("has_pip", [True, False])
@pytest.mark.parametrize("settings", ["home = /usr\nuv = 0.9\n", "uv = 0.9", "home = /uv = 1", None])
def test_the_next_steps_fit_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_pip: bool, settings: str | None
) -> None:
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setattr("opyard.cli.new_plugin.find_spec", lambda name: has_pip or None)
    if settings is not None:
        (tmp_path / "pyvenv.cfg").write_text(settings)
    with_pip = ("python -m pip install -e '.[test]'", "opyard kernels acme.swish", "python -m pytest")
    with_uv = (
        "uv pip install -e '.[test]'",
        "uv run --no-project opyard kernels acme.swish",
        "uv run --no-project python -m pytest",
    )
    by_uv = settings is not None and "uv = 0.9" in settings
    assert next_steps("acme") == (with_uv if by_uv and not has_pip else with_pip)


def test_json_names_the_files(tmp_path: Path, capsys):
    assert run("acme", "--folder", str(tmp_path / "here"), "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["folder"] == str(tmp_path / "here")
    assert data["files"] == [str(tmp_path / "here" / name) for name in FILES]


@pytest.mark.parametrize("name", ["Acme", "a-b", "1a", "", "a_b", "../x"])
def test_names_that_cannot_be(tmp_path: Path, monkeypatch, capsys, name: str):
    monkeypatch.chdir(tmp_path)
    assert run(name) == 1
    assert (
        "a plugin's name is a word of small letters and digits, such as 'acme'; found"
        in capsys.readouterr().err
    )
    assert not contents(tmp_path)


def test_a_name_that_is_taken(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("cpu") == 1
    assert "a plugin called 'cpu' is installed already (opyard-cpu 0.1.0)" in capsys.readouterr().err


def test_a_folder_with_files_is_left_alone(tmp_path: Path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert run("acme", "--folder", str(tmp_path)) == 1
    assert (
        "exists already and is not an empty folder; choose another with --folder." in capsys.readouterr().err
    )
    assert list(contents(tmp_path)) == ["notes.txt"]


def test_the_created_plugin_works_and_its_test_passes(tmp_path: Path):
    write_template("acme", tmp_path)
    information = tmp_path / "src" / "opyard_acme-0.1.0.dist-info"
    information.mkdir()
    (information / "entry_points.txt").write_text("[opyard]\nacme = opyard_acme\n")
    program = f"import pytest; raise SystemExit(pytest.main(['-q', '-W', 'error', '-p', 'no:cacheprovider', {str(tmp_path)!r}]))"
    done = run_python(program, tmp_path / "src", OPYARD_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
