"""Variables: eager, in graphs, compiled, in threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import opyard as oy
from opyard.errors import GraphError, SpecError
from opyard.variables import assign_all, snapshot

F32 = np.float32


def test_ops_take_variables_where_they_take_arrays():
    w = oy.Variable([[1, 2], [3, 4]], dtype="float32", name="w")
    np.testing.assert_array_equal(w @ np.ones((2, 1), F32), [[3], [7]])
    np.testing.assert_array_equal(np.ones((1, 2), F32) @ w, [[4, 6]])
    assert float(oy.sum(w)) == 10
    assert oy.concat(w, w).shape == (4, 2)
    assert (w.shape, w.dtype, w.ndim, repr(w)) == ((2, 2), np.float32, 2, "<Variable w: float32[2, 2]>")
    np.testing.assert_array_equal(np.asarray(w), [[1, 2], [3, 4]])


def test_a_variable_has_an_array_of_its_own():
    array = np.zeros(2, F32)
    v = oy.Variable(array)
    array[:] = 7
    assert v.numpy().tolist() == [0, 0]
    v.numpy()[:] = 7
    v.assign(array)
    array[:] = 9
    assert v.numpy().tolist() == [7, 7]


def test_initial_values():
    assert oy.Variable(lambda: np.ones(2)).numpy().tolist() == [1, 1]
    assert oy.Variable(3).dtype == np.int64
    assert oy.Variable(3, dtype="bfloat16").dtype.name == "bfloat16"
    with pytest.raises(SpecError, match="the variable 'text': tensors hold numbers and booleans"):
        oy.Variable(np.array(["a"]), name="text")
    with pytest.raises(GraphError, match="a variable begins with an array; make it outside of the graph"):
        oy.trace(lambda x: oy.Variable(x), oy.TensorSpec((), "float32"))


def test_assignments_keep_shape_and_dtype():
    v = oy.Variable(np.zeros(2, F32), name="v")
    assert v.assign([1, 2]).tolist() == [1, 2]
    assert v.assign_add(1).tolist() == [2, 3]
    assert v.assign_sub(np.ones(2, F32)).tolist() == [1, 2]
    assert v.assign(oy.Variable(np.ones(2, F32))).tolist() == [1, 1]
    text = r"the variable 'v' holds float32\[2\]; float32\[3\] was assigned. Convert it: cast\(x, dtype='float32'\)"
    with pytest.raises(SpecError, match=text):
        v.assign(np.zeros(3, F32))
    with pytest.raises(SpecError, match=text):
        oy.compile(lambda x: v.assign(x))(np.zeros(3, F32))
    assert v.numpy().tolist() == [1, 1]


def test_a_compiled_function_does_all_of_its_assignments():
    w, steps = oy.Variable(np.ones(2, F32), name="w"), oy.Variable(0, name="steps")

    @oy.compile
    def step(x):
        before = w * 1
        w.assign(w - x)
        steps.assign_add(1)
        w.assign(w * 2)
        return before, w

    before, after = step(np.full(2, 0.5, F32))
    assert (before.tolist(), after.tolist(), w.numpy().tolist(), int(steps.numpy())) == (
        [1, 1],
        [1, 1],
        [1, 1],
        1,
    )
    before, after = step(np.zeros(2, F32))
    assert (before.tolist(), after.tolist(), int(steps.numpy())) == ([1, 1], [2, 2], 2)


def test_a_compiled_function_without_arrays_is_recorded_in_another():
    n = oy.Variable(0)
    count = oy.compile(lambda: n.assign_add(1))
    twice = oy.compile(lambda: (count(), count()))
    assert [int(found) for found in twice()] == [1, 2]
    assert int(n.numpy()) == 2


def test_a_session_does_the_assignments_that_fetches_depend_on():
    v, other = oy.Variable(np.zeros(2, F32), name="v"), oy.Variable(0, name="other")
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec((2,), "float32"))
        before = v + 0
        update = v.assign_add(x)
        graph.output("double", v * 2)
        other.assign_add(1)
    with oy.Session(graph) as session:
        feeds = {"x": np.ones(2, F32)}
        assert session.run(before).tolist() == [0, 0]
        assert v.numpy().tolist() == [0, 0]
        assert session.run(update, feeds).tolist() == [1, 1]
        assert session.run(["double", before], feeds)[0].tolist() == [4, 4]
        assert (v.numpy().tolist(), int(other.numpy())) == ([2, 2], 0)
        assert session.run(v, feeds).tolist() == [3, 3]  # what it holds after all that is recorded
        call = session.callable("double", ["x"])
        assert call(np.ones(2, F32)).tolist() == [8, 8]
        assert "add" in str(session.explain("double", {"x": oy.TensorSpec((2,), "float32")}))


def test_several_sessions_share_variables():
    n = oy.Variable(0)
    with oy.Graph() as first:
        first.output("n", n.assign_add(1))
    with oy.Graph() as second:
        second.output("n", n * 10)
    oy.Session(first).run("n")
    assert int(oy.Session(second).run("n")) == 10


def test_a_run_that_fails_assigns_nothing():
    v, w = oy.Variable(np.zeros(2, F32)), oy.Variable(np.zeros(2, F32))

    @oy.op("test.fails", infer=lambda x: x)
    def fails(x):
        raise RuntimeError("no")

    def step(x):
        v.assign(x)
        w.assign(fails(x))
        return x

    with pytest.raises(RuntimeError, match="no"):
        oy.compile(step)(np.ones(2, F32))
    assert v.numpy().tolist() == [0, 0]


def test_loops_read_variables_and_do_not_assign_them():
    w = oy.Variable(np.full(2, 2.0, F32), name="w")
    run = oy.compile(lambda x: oy.scan(lambda c, _: (c * w, None), x, length=3)[0])
    assert run(np.ones(2, F32)).tolist() == [8, 8]
    w.assign([3, 3])
    assert run(np.ones(2, F32)).tolist() == [27, 27]

    def assigning(c, _):
        w.assign(c)
        return c, None

    with pytest.raises(
        GraphError, match="the variable 'w' is assigned in a branch or in the step of a loop; hand it on"
    ):
        oy.compile(lambda x: oy.scan(assigning, x, length=3)[0])(np.ones(2, F32))


def test_variables_live_on_a_device():
    w = oy.Variable(np.ones((2, 2), F32), device="opencl:0")
    assert not isinstance(w.array, np.ndarray)
    step = oy.compile(lambda x: w.assign_add(x))
    np.testing.assert_array_equal(step(np.ones((2, 2), F32)), np.full((2, 2), 2))
    assert not isinstance(w.array, np.ndarray)
    np.testing.assert_array_equal(w.numpy(), np.full((2, 2), 2))
    w.assign(np.zeros((2, 2), F32))
    assert not isinstance(w.array, np.ndarray)


def test_a_variable_as_an_argument_is_not_traced():
    one, two = oy.Variable(np.ones(2, F32)), oy.Variable(np.zeros(2, F32))
    update = oy.compile(lambda v, x: v.assign_add(x))
    update(one, np.ones(2, F32))
    update(two, np.ones(2, F32))
    assert (one.numpy().tolist(), two.numpy().tolist()) == ([2, 2], [1, 1])


def test_threads_lose_no_update():
    n, total = oy.Variable(0), oy.Variable(np.zeros(2, F32))

    @oy.compile
    def step(x):
        n.assign_add(1)
        total.assign_add(x)
        return total

    read = oy.compile(lambda: (n * 1, total * 1))
    torn = []

    def work():
        for _ in range(50):
            step(np.ones(2, F32))
            count, found = read()
            if found.tolist() != [count, count]:
                torn.append((count, found))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (int(n.numpy()), total.numpy().tolist(), torn) == (400, [400, 400], [])


def test_a_branch_looks_at_a_variable_when_it_runs():
    flag = oy.Variable(True, name="flag")
    assert oy.cond(flag, lambda: 1, lambda: 2) == 1
    run = oy.compile(lambda x: oy.cond(flag, lambda: x, lambda: -x))
    assert run(np.ones(2, F32)).tolist() == [1, 1]
    flag.assign(False)
    assert run(np.ones(2, F32)).tolist() == [-1, -1]


def test_a_variable_is_a_number_or_a_sequence_where_its_array_is():
    flag, table = oy.Variable(False, name="flag"), oy.Variable([[1.0, 2.0], [3.0, 4.0]], name="table")
    assert not flag
    assert (int(oy.Variable(3)), float(oy.Variable(0.5))) == (3, 0.5)
    assert len(table) == 2
    with pytest.raises(TypeError, match=r"the variable 'flag' has no dimensions, and so no len\(\)"):
        len(flag)
    assert [row.tolist() for row in table] == [[1, 2], [3, 4]]
    assert table[:, 1].tolist() == [2, 4]
    assert oy.compile(lambda x: table[1] + x)(np.zeros(2)).tolist() == [3, 4]
    for convert in (bool, int, float):
        with pytest.raises(
            GraphError, match="the variable 'flag' is no Python number while a graph is built"
        ):
            oy.compile(lambda x, convert=convert: convert(flag) and x)(np.zeros(2))


def test_what_would_not_assign_says_so():
    w = oy.Variable(np.zeros(2, F32), name="w")
    with pytest.raises(
        GraphError, match=r"leave the variable 'w' as it is; write w.assign_add\(x\), w.assign_sub"
    ):
        w += 1
    with pytest.raises(GraphError, match=r"the variable 'w' is assigned as a whole; write w\.assign"):
        w[0] = 1
    with pytest.raises(
        SpecError, match=r"holds float32\[2\]; NoneType was assigned\. Assign an array, numbers or"
    ):
        w.assign(None)
    with pytest.raises(
        SpecError, match=r"what is assigned to 'w' cannot become float32\[2\]: setting an array"
    ):
        w.assign([[1, 2], [3]])
    with pytest.raises(SpecError, match="a variable's name is a string; found 3"):
        oy.Variable(0, name=3)


def test_an_assignment_that_does_not_fit_names_the_line():
    w = oy.Variable(np.zeros(2, F32), name="w")
    text = r"'w' holds float32\[2\]; float64\[2\] was assigned. .* \(at test_variables.py:\d+\)"
    with pytest.raises(SpecError, match=text):
        oy.compile(lambda x: w.assign_add(x))(np.zeros(2))


def test_a_function_that_only_assigns_gives_none():
    w = oy.Variable(np.zeros(2, F32))

    @oy.compile
    def bump(x):
        w.assign_add(x)

    assert bump(np.ones(2, F32)) is None
    assert bump(np.ones(2, F32)) is None
    assert w.numpy().tolist() == [2, 2]
    assert "add" in str(bump.explain(np.ones(2, F32)))
    with pytest.raises(GraphError, match="returns None as output 0"):
        oy.compile(lambda x: None)(np.ones(2, F32))


def test_assignments_to_several_variables_are_seen_together():
    one, two = oy.Variable(np.zeros(2, F32), name="one"), oy.Variable(np.zeros(3, F32), name="two")
    with pytest.raises(SpecError, match="the variable 'two' holds"):
        assign_all([(one, np.ones(2, F32)), (two, np.ones(2, F32))])
    assert one.numpy().tolist() == [0, 0]
    assign_all([(two, [1, 1, 1]), (one, [1, 1])])
    assert [array.tolist() for array in snapshot([one, two])] == [[1, 1], [1, 1, 1]]
