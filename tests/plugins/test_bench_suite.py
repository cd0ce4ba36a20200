"""The model suite, and ``opyard bench models``: opyard and other runtimes on the same graphs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opyard as oy
from onnx_runtime import theirs
from opyard.cli import main
from opyard.errors import GraphError, SettingsError
from opyard_bench import contest as contests
from opyard_bench.contest import ContestOptions, contest, difference
from opyard_bench.contest_record import Contest, Entry, Match, from_text, is_contest, mean_ratio, to_text
from opyard_bench.contest_report import remarks, table_rows, to_markdown
from opyard_bench.models.suite import NAMES, SCALES, build
from opyard_bench.peers.contestants import CONTESTANTS, OURS, PEERS, Contestant
from opyard_bench.peers.translate import translate
from opyard_onnx import export

# Models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_models_give_the_same_here_and_in_onnx_runtime(name: str) -> None:
    model = build(name, 2, "tiny")
    names = list(model.graph.outputs)
    ours = oy.Session(model.graph, devices="cpu:0").run(names, model.feeds)
    for found, expected in zip(ours, theirs(export(model.graph), dict(model.feeds)), strict=True):
        assert found.shape == expected.shape
        assert difference([found], [expected]) < 1e-5
    assert all(0.01 < float(np.abs(out).max()) < 100 for out in ours)


def test_scales_have_the_same_models_and_batches_any_size() -> None:
    assert set(SCALES["tiny"]) == set(SCALES["full"]) == set(NAMES)
    for batch in (1, 3):
        model = build("digits", batch)
        assert model.feeds["images"].shape == (batch, 1, 8, 8)
        assert model.graph.outputs["probabilities"].shape == (batch, 10)
    assert build("mlp").feeds["features"].tobytes() == build("mlp").feeds["features"].tobytes()
    assert build("mlp").feeds["features"].tobytes() != build("mlp", seed=1).feeds["features"].tobytes()


@pytest.mark.parametrize(
    "name, weights",
    [("resnet18", 11_689_512), ("mobilenet_v2", 3_504_872)],
)
def test_full_models_have_the_weights_of_the_papers(name: str, weights: int) -> None:
    """By the counts of torchvision, without what batch normalization folds away: scales, one for each channel."""
    graph = build(name).graph
    sizes = [array.size for array in graph.constants.values()]
    convolved = sum(node.outputs[0].shape[1] for node in graph.nodes if node.op.name == "conv")
    assert sum(size for size in sizes if size > 1) == weights - convolved


def test_an_unknown_model_names_the_others() -> None:
    with pytest.raises(SettingsError, match=r"'resnet19' is no model of the suite\. Did you mean resnet18"):
        build("resnet19")


# Peers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", [name for name in PEERS if name not in ("compile", "ort")])
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "unet", "vit_s16", "gpt2_small", "lstm"])
def test_peers_agree(peer: str, name: str) -> None:
    if CONTESTANTS[peer].missing:
        pytest.skip(CONTESTANTS[peer].missing)
    model = build(name, 2, "tiny")
    ours, other = (CONTESTANTS[who].prepare(model, 1)() for who in (OURS, peer))
    assert difference([np.asarray(o) for o in ours], [np.asarray(o) for o in other]) < 1e-5


def test_a_translation_without_an_op_says_so() -> None:
    graph = oy.trace(lambda x: oy.relu(oy.tan(x)), oy.TensorSpec((2,)))
    with pytest.raises(
        GraphError, match="the translation to Toy has no op 'tan'; add it to the table of Toy"
    ):
        translate(graph, {"relu": np.abs}, "Toy")


def test_a_translation_computes_the_graph() -> None:
    def function(x: Any) -> Any:
        first, second = oy.split(x * np.arange(4, dtype=np.float32), sections=2, axis=0)
        return first + second, first

    table = {
        "multiply": np.multiply,
        "add": np.add,
        "split": lambda x, *, sections, axis: np.split(x, sections, axis),
    }
    graph = oy.trace(function, oy.TensorSpec((4,)))
    x = np.array([1, 2, 3, 4], np.float32)
    found = translate(graph, table, "NumPy")(list(graph.constants.values()), [x])
    assert [part.tolist() for part in found] == [[6.0, 14.0], [0.0, 2.0]]


def test_what_is_missing_is_said_with_the_command() -> None:
    absent = Contestant("toy", "Toy", lambda model, threads: list, ("numpy", "no_such_module"))
    assert absent.missing == "not installed. Type: pip install no-such-module"
    assert Contestant("toy", "Toy", lambda model, threads: list, ("numpy",)).missing is None


# Contests --------------------------------------------------------------------------------------------------------


def test_outputs_are_compared_by_the_greatest_number() -> None:
    one = np.array([1.0, 10.0], np.float32)
    assert difference([one], [one]) == 0
    assert difference([one], [np.array([1.1, 10.0], np.float32)]) == pytest.approx(0.01)
    assert difference([one], [one[:1]]) == np.inf
    assert difference([np.array([np.nan, 1])], [one]) == np.inf


def run_models(*words: str, status: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--models", *words])
    assert ended.value.code == status


def test_one_command_measures_and_shows_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = replace(PEERS["jax"], packages=("no_such_module",))
    monkeypatch.setitem(CONTESTANTS, "jax", missing)
    path, table = tmp_path / "models.json", tmp_path / "models.md"
    options = ("--batches", "2", "--threads", "1", "--rounds", "2", "--tune", "0.2", "--scale", "tiny")
    run_models("mlp", "--peers", "ort,jax", *options, "--json", str(path), "--markdown", str(table))
    printed = capfd.readouterr().out
    assert "jax missing: not installed. Type: pip install no-such-module" in printed
    found = from_text(path.read_text(), str(path))
    (match,) = found.matches
    ours, ort, jax = match.entries
    assert (ours.status, ort.status, jax.status) == ("ok", "ok", "missing"), (ours.reason, ort.reason)
    assert len(ours.samples) == len(ort.samples) == 2 and min(*ours.samples, *ort.cpu) > 0
    assert ours.tuning is not None and ours.first is not None and ours.error is not None and ours.error < 1e-5
    assert ours.kernels and 0 < ours.kernels[0][1] <= 1
    assert match.ratio and mean_ratio(found) == pytest.approx(match.ratio)
    assert (match.nodes, match.weights) == (6, 32 * 16 + 16 + 16 * 10 + 10)
    assert table.read_text() == to_markdown(found)
    for form, expected in (("json", path.read_text()), ("markdown", table.read_text())):
        with pytest.raises(SystemExit):
            main(["bench", "show", str(path), "--format", form])
        assert capfd.readouterr().out == expected


class Scripted:
    """Stands for the process of a contestant: what it answers, and what it raises."""

    def __init__(self, name: str, answers: dict[str, Any]) -> None:
        self.name, self.answers = name, {"build": (3, 4), "sample": (1.0, 2.0), "profile": [], **answers}

    def ask(self, request: str, *arguments: Any) -> Any:
        answer = self.answers[request]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        pass


def scripted(monkeypatch: pytest.MonkeyPatch, **players: dict[str, Any]) -> Contest:
    """A contest of one match whose processes answer as they are told."""
    monkeypatch.setattr(contests, "_start", lambda name, threads, cache: Scripted(name, players[name]))
    peers = tuple(name for name in players if name != OURS)
    for name in peers:
        monkeypatch.setitem(CONTESTANTS, name, replace(PEERS[name], packages=("numpy",)))
    options = ContestOptions(("mlp",), peers, (1,), (1,), rounds=3, tuning=0.0)
    return contest(options, lambda part, text: None)


ONES, TWOS = (0.5, [np.ones(3, np.float32)]), (0.5, [np.full(3, 2, np.float32)])


def test_a_wrong_contestant_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = scripted(
        monkeypatch,
        opyard={"prepare": ONES, "sample": (3.0, 3.0), "profile": [("relu by cpu/numpy", 0.75)]},
        ort={"prepare": ONES},
        torch={"prepare": TWOS, "sample": (0.1, 0.1)},
    )
    (match,) = found.matches
    assert [entry.status for entry in match.entries] == ["ok", "ok", "wrong"]
    assert match.entries[2].samples == () and match.ratio == 3.0
    sentences = remarks(found)
    assert (
        sentences[0] == "Geometric mean of the ratios of opyard to the best peer: 3.00; 1 of 1 are above 1."
    )
    assert (
        "mlp, batch 1, threads 1: torch wrong: its outputs differ by 1.0e+00 from those of opyard, more than 0.0001"
        in sentences
    )
    assert "mlp, batch 1, threads 1: 3.00 times the best peer: 75% relu by cpu/numpy." in sentences
    assert table_rows(found) == [["mlp", "1", "1", "3e+03", "1e+03", "wrong", "ort", "3.00", "", "0.50"]]


def test_what_raises_and_what_ends_is_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = scripted(
        monkeypatch,
        opyard={"prepare": ONES},
        ort={"prepare": contests.WorkerError("RuntimeError: no room")},
        jax={"prepare": ONES, "sample": SettingsError("the process ended")},
    )
    entries = found.matches[0].entries
    assert [(entry.status, entry.reason) for entry in entries[1:]] == [
        ("failed", "RuntimeError: no room"),
        ("failed", "the process ended"),
    ]
    assert found.matches[0].ratio is None and mean_ratio(found) is None


def test_an_interrupt_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found = scripted(
        monkeypatch, opyard={"prepare": ONES}, ort={"prepare": ONES, "sample": KeyboardInterrupt()}
    )
    assert found.interrupted
    assert [entry.error for entry in found.matches[0].entries] == [0.0, 0.0]
    sampled = Match(
        "mlp", 1, 1, 6, 7, (Entry(OURS, "ok", samples=(2.0,)), Entry("ort", "ok", samples=(1.0,)))
    )
    text = remarks(replace(found, matches=(sampled,)))
    assert "mlp, batch 1, threads 1: 2.00 times the best peer: no profile." in text
    assert remarks(found)[-1] == "The run was interrupted: what is missing was not measured."


def test_records_are_read_back_and_others_refused() -> None:
    entry = Entry(OURS, "ok", samples=(1.0, 2.0), cpu=(1.0, 2.0), kernels=(("relu by cpu/numpy", 1.0),))
    made = Contest({}, {}, {"peers": ["ort"]}, "now", None, (Match("mlp", 1, 1, 6, 7, (entry,)),))
    text = to_text(made)
    assert is_contest(text) and from_text(text, "file") == made
    other = json.dumps(json.loads(text) | {"opyard_bench_models": 0})
    with pytest.raises(
        SettingsError, match="file is a record of models of version 0, and this opyard-bench reads"
    ):
        from_text(other, "file")
    with pytest.raises(SettingsError, match=r"file is no record of models \(KeyError"):
        from_text("{}", "file")


@pytest.mark.parametrize(
    "words, message",
    [
        (("--peers", "tensorflow"), "--peers 'tensorflow' is none."),
        (("--batches", "1,x"), "--batches takes positive numbers, separated by commas; found '1,x'."),
        (("--threads", "0"), "--threads takes positive numbers, separated by commas; found '0'."),
        (("resnet"), "'resnet' is no model of the suite."),
    ],
)
def test_what_cannot_be_meant(
    words: tuple[str, ...] | str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_models(*((words,) if isinstance(words, str) else words), status=1)
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_record_of_models_has_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "models.json"
    path.write_text(to_text(Contest({}, {}, {"peers": []}, "now", None)))
    with pytest.raises(SystemExit):
        main(["bench", "show", str(path), "--format", "html"])
    assert "a record of models has no html; there are table, json, markdown." in " ".join(
        capsys.readouterr().err.split()
    )


def test_the_ratio_is_that_of_rounds_and_to_the_hardest_peer() -> None:
    """A machine that slows down for some rounds slows all contestants down."""
    ours = Entry("opyard", "ok", samples=(2.0, 4.4, 2.2))
    even = Entry("ort", "ok", samples=(2.0, 4.0, 2.0))
    slow = Entry("torch", "ok", samples=(1.9, 9.0, 9.0))
    match = Match("mlp", 1, 1, 1, 1, (ours, even, slow))
    assert match.best_peer is even
    assert match.ratio == pytest.approx(1.1)
    lost = Match("mlp", 1, 1, 1, 1, (Entry("opyard", "failed"), even))
    assert lost.best_peer is None and lost.ratio is None
