from __future__ import annotations

import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from environments import install
from opyard.entrypoints import GROUP, EntryPoint, find


def test_plugins_of_all_folders_in_a_stable_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    install(one, "opyard-zz", {"b": "zz.plugin", "a": "zz.plugin:attribute"}, {}, "2.0.dev1")
    install(two, "Opyard_AA", {"b": "aa"}, {})
    assert find([str(one), str(two)]) == find([str(two), str(one)])
    assert find([str(one), str(two)]) == [
        EntryPoint("a", "opyard-zz", "2.0.dev1", "zz.plugin:attribute"),
        EntryPoint("b", "opyard-aa", "1.0", "aa"),
        EntryPoint("b", "opyard-zz", "2.0.dev1", "zz.plugin"),
    ]


def test_the_first_of_two_copies_counts_however_the_name_is_written(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    install(one, "Opyard.Same_name", {"new": "new"}, {}, "2.0")
    install(two, "opyard-same-name", {"old": "old"}, {}, "1.0")
    assert [entry.name for entry in find([str(one), str(two)])] == ["new"]
    assert [entry.name for entry in find([str(two), str(one)])] == ["old"]


def test_a_first_copy_without_entry_points_hides_the_second(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    (one / "opyard_same-2.0.dist-info").mkdir(parents=True)
    install(two, "opyard-same", {"old": "old"}, {})
    assert find([str(one), str(two)]) == []


def test_only_the_group_of_opyard_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "pkg-3.1.dist-info"
    folder.mkdir()
    (folder / "entry_points.txt").write_text(
        """stray = before.any.section
[console_scripts]
tool = pkg.cli:main

[ opyard ]
# a comment = with an equals sign
; another = comment
plain=pkg.plain
spaced   =   pkg.spaced : attribute
extra = pkg.extra [cuda,opencl]
no equals sign here

[opyard.other]
other = pkg.other
[opyard]
again = pkg.again
"""
    )
    assert [(entry.name, entry.value) for entry in find([str(tmp_path)])] == [
        ("again", "pkg.again"),
        ("extra", "pkg.extra"),
        ("plain", "pkg.plain"),
        ("spaced", "pkg.spaced : attribute"),
    ]


def test_paths_that_are_missing_unreadable_or_no_folders(tmp_path: Path) -> None:
    install(tmp_path / "good", "opyard-good", {"good": "good"}, {})
    text = tmp_path / "text.txt"
    text.write_text("neither a folder nor an archive")
    broken = tmp_path / "good" / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "entry_points.txt").write_bytes(b"[opyard]\n\xff\xfe = nonsense\nbroken = b\n")
    (tmp_path / "good" / "file-1.0.egg-info").write_text("a file and no folder")
    found = find([str(tmp_path / "missing"), str(text), str(tmp_path / "good")])
    assert {"good", "broken"} <= {entry.name for entry in found}


def test_the_empty_path_is_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "opyard-here", {"here": "here"}, {})
    monkeypatch.chdir(tmp_path)
    assert [entry.name for entry in find([""])] == ["here"]


def test_old_egg_info_with_and_without_versions(tmp_path: Path) -> None:
    for name in ("opyard_develop.egg-info", "opyard_old-1.5-py3.11.egg-info"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "entry_points.txt").write_text(f"[opyard]\n{name[7:10]} = m\n")
    assert [(e.distribution, e.version) for e in find([str(tmp_path)])] == [
        ("opyard-develop", ""),
        ("opyard-old", "1.5"),
    ]


def test_distributions_in_an_archive(tmp_path: Path) -> None:
    archive = tmp_path / "bundle.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(
            "opyard_zipped-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: opyard-zipped\nVersion: 1.0\n",
        )
        file.writestr("opyard_zipped-1.0.dist-info/entry_points.txt", "[opyard]\nzipped = z\n")
        file.writestr("plain-2.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: plain\nVersion: 2.0\n")
    assert find([str(archive)]) == [EntryPoint("zipped", "opyard-zipped", "1.0", "z")]


def test_the_installed_plugins_are_those_that_importlib_finds() -> None:
    assert {(e.name, e.value) for e in find()} == {(e.name, e.value) for e in entry_points(group=GROUP)}
