"""Opens damaged model files: bytes of small models changed at random, and their parts changed so that they still parse.

    uv run python tests/bench/onnx_mutations.py                  10,000 files
    uv run python tests/bench/onnx_mutations.py --count 500 --json
    uv run python tests/bench/onnx_mutations.py --show 4711      what one of them gives

A file may be opened or refused by an OpyardError, within one second of CPU time. Everything else is a finding: another
exception, a process that dies, one that takes more than 4 GiB. The files are the same in every run.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, helper, numpy_helper, parser

CASES = (
    *("add", "and2d", "argmax_default_axis_example", "averagepool_2d_same_upper", "batchnorm_epsilon", "bitshift_left_uint8"),
    *("cast_FLOAT_to_BFLOAT16", "center_crop_pad_crop", "clip", "col2im", "compress_0", "concat_2d_axis_1", "constantofshape_float_ones"),
    *("conv_with_strides_padding", "convtranspose_pads", "cumsum_1d", "deform_conv_with_mask_bias", "depthtospace_example"),
    *("dequantizelinear_axis", "dft", "dynamicquantizelinear", "einsum_batch_diagonal", "expand_dim_changed", "eyelike_with_dtype"),
    *("gather_1", "gathernd_example_float32", "gelu_default_1_expanded", "gemm_all_attributes", "gridsample", "group_normalization_epsilon"),
    *("gru_seq_length", "hannwindow", "identity_sequence", "if", "if_seq", "layer_normalization_default_axis_expanded", "loop11", "loop13_seq"),
    *("lppool_2d_pads", "lstm_with_peepholes", "matmulinteger", "maxpool_with_argmax_2d_precomputed_pads", "maxunpool_export_with_output_shape"),
    *("melweightmatrix", "nonmaxsuppression_two_classes", "onehot_with_axis", "optional_get_element_tensor", "pow", "qlinearconv"),
    *("quantizelinear", "range_int32_type_negative_delta", "reduce_sum_default_axes_keepdims_example", "reshape_extended_dims"),
    *("resize_upsample_sizes_cubic", "reversesequence_time", "roialign_aligned_true", "scan9_sum", "scatter_elements_with_axis", "sequence_insert_at_back"),
    *("sequence_map_add_1_sequence_1_tensor_expanded", "shape_start_1_end_2", "simple_rnn_batchwise", "slice_neg_steps", "softmax_axis_1"),
    *("split_variable_parts_1d_opset18", "squeeze", "stft_with_window", "strnormalizer_export_monday_casesensintive_lower", "tfidfvectorizer_tf_batch_onlybigrams_skip5"),
    *("tile", "top_k", "training_dropout_default_mask", "transpose_all_permutations_0", "triu_one_row", "unique_sorted_with_axis", "upsample_nearest", "where_example"),
)  # fmt: skip
"""Cases of the ONNX project's suite whose models are damaged."""

TEXTS = (
    "g (float[batch, 2, 2] x) => (float[batch, 2] y) { s = Constant <value_ints = [-1, 4]> () f = Reshape (x, s) c = Clip (f, low) m = Gemm <alpha = 2.0> (c, w) y = Softmax <axis = 1> (m) }",
    "g (float[2, 3] x, float[n] z) => (float[m] y) { s = Shape (x) p = ReduceProd <keepdims = 0> (s) o = Constant <value_ints = [1]> () q = Reshape (p, o) e = Expand (z, q) y = Relu (e) }",
    "g (float[2] x, bool c) => (float[2] y) { y = If <then_branch = t () => (float[2] a) { a = Relu (x) }, else_branch = e () => (float[2] b) { b = Neg (x) }> (c) }",
    "g (float[3] x) => (float[3] y, float[n, 3] z) { m = Constant <value_int = 4> () t = Constant <value = bool {1}> () y, z = Loop <body = b (int64 i, bool c, float[3] v) => (bool d, float[3] w, float[3] u) { d = Identity (c) w = Add (v, v) u = Neg (v) }> (m, t, x) }",
    "g (float[2, 2] x) => (float[2, 2] y) { h = acme.two <k = 3> (x) y = acme.two <k = 4> (h) }",
)
FUNCTION = """<opset_import: ["" : 21], domain: "acme"> one <k> (x) => (y) { c = Constant <value_int: int = @k> () f = CastLike (c, x) y = Mul (x, f) }
<opset_import: ["" : 21, "acme" : 1], domain: "acme"> two <k> (x) => (y) { a = acme.one <k: int = @k> (x) b = acme.one <k = 2> (a) y = Add (a, b) }"""

ABSURD = (
    0,
    -1,
    1,
    2,
    3,
    7,
    64,
    255,
    2**15,
    2**31 - 1,
    -(2**31),
    2**31,
    2**40,
    2**62,
    2**63 - 1,
    -(2**63),
    -7,
)
WORDS = (
    "",
    "x",
    "y",
    "Relu",
    "Loop",
    "If",
    "Identity",
    "Reshape",
    "acme",
    "ai.onnx",
    "ai.onnx.ml",
    "../../etc/passwd",
    "\x00",
    "é" * 99,
    "two",
)
FLOATS = (0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e30, 1e-30)
MEMORY = 4 * 2**30


def corpus() -> list[bytes]:
    """The models that are damaged."""
    from onnx.backend.test.loader import load_model_tests

    wanted = {f"test_{name}" for name in CASES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, about what the suite's cases are made of
        cases = [case for case in load_model_tests(kind="node") if case.name in wanted]
    assert len(cases) == len(wanted), wanted - {case.name for case in cases}
    found = [
        case.model.SerializeToString() if case.model else Path(case.model_dir, "model.onnx").read_bytes()
        for case in cases
    ]
    for text in TEXTS:
        proto = parser.parse_model(
            f'<ir_version: 10, opset_import: ["" : 21, "acme" : 1]>\n{text}\n{FUNCTION}'
        )
        if "low" in text:
            proto.graph.initializer.append(numpy_helper.from_array(np.float32(0), "low"))
            proto.graph.initializer.append(numpy_helper.from_array(np.ones((4, 2), "float32"), "w"))
        outside = proto.graph.initializer.add(name="outside", data_type=1, dims=[2], data_location=1)
        outside.external_data.add(key="location", value="weights.bin")
        found += [proto.SerializeToString()]
        del proto.graph.initializer[-1]
        found += [proto.SerializeToString()]
    return found


def mutant(data: list[bytes], number: int) -> bytes:
    """Damaged file ``number``: bytes changed where it is even, and parts of the message where it is odd."""
    generator = np.random.default_rng(number)
    model = data[int(generator.integers(len(data)))]
    changes = int(generator.integers(1, 5))
    if number % 2 == 0:
        found = bytearray(model)
        for _ in range(changes):
            _change_bytes(found, generator)
        return bytes(found)
    proto = ModelProto.FromString(model)
    for _ in range(changes):
        _change_part(proto, generator)
    return bytes(proto.SerializePartialToString())


def _change_bytes(data: bytearray, generator: np.random.Generator) -> None:
    place, kind = int(generator.integers(len(data) or 1)), int(generator.integers(6))
    length = int(generator.integers(1, 9))
    if kind == 0:
        data[place : place + 1] = generator.bytes(1)
    elif kind == 1:
        del data[place : place + length]
    elif kind == 2:
        data[place:place] = generator.bytes(length)
    elif kind == 3:
        del data[place:]
    elif kind == 4:
        data[place:place] = data[place : place + 8 * length]
    elif data:
        data[place % len(data)] ^= 1 << int(generator.integers(8))


def _messages(proto: Any) -> Iterator[Any]:
    pending = [proto]
    while pending:
        message = pending.pop()
        yield message
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                pending += list(value) if field.is_repeated else [value]


def _change_part(proto: Any, generator: np.random.Generator) -> None:
    every = list(_messages(proto))
    message = every[int(generator.integers(len(every)))]
    fields = [field for field, _ in message.ListFields()]
    if not fields or generator.integers(8) == 0:  # one that is not set
        fields = [f for f in message.DESCRIPTOR.fields if f.type != f.TYPE_MESSAGE]
    if not fields:
        return
    field = fields[int(generator.integers(len(fields)))]
    if field.is_repeated:
        _change_list(getattr(message, field.name), field, every, generator)
    elif field.type == field.TYPE_MESSAGE or generator.integers(6) == 0:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _value(field, every, generator))


def _change_list(items: Any, field: Any, every: list[Any], generator: np.random.Generator) -> None:
    kind, place = int(generator.integers(4)), int(generator.integers(len(items) or 1))
    plain = field.type != field.TYPE_MESSAGE
    if kind == 0 and len(items):
        del items[place]
    elif kind == 1 and len(items):  # again, at the end
        items.append(items[place]) if plain else items.add().CopyFrom(items[place])
    elif kind == 2 and len(items) > 1:
        rest = list(items)[place:]
        moved = (
            rest[::-1]
            if plain
            else [type(item).FromString(item.SerializePartialToString()) for item in rest[::-1]]
        )
        del items[place:]
        items.extend(moved)
    elif plain:
        value = _value(field, every, generator)
        if len(items):
            items[place] = value
        else:
            items.append(value)


def _value(field: Any, every: list[Any], generator: np.random.Generator) -> Any:
    def pick(choices: Any) -> Any:
        return choices[int(generator.integers(len(choices)))]

    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return pick(FLOATS)
    if field.type == field.TYPE_STRING:
        names = [m.name for m in every if "name" in m.DESCRIPTOR.fields_by_name]
        operators = [m.op_type for m in every if "op_type" in m.DESCRIPTOR.fields_by_name]
        return pick([*WORDS, *names, *operators])
    if field.type == field.TYPE_BYTES:
        return generator.bytes(int(pick((0, 1, 4, 8, 99))))
    if field.type == field.TYPE_ENUM:
        return pick([v.number for v in field.enum_type.values])
    number = pick(ABSURD)
    unsigned = field.type in (field.TYPE_UINT64, field.TYPE_UINT32)
    if field.type in (field.TYPE_INT32, field.TYPE_UINT32):
        number = max(-(2**31), min(2**31 - 1, number))
    return abs(number) if unsigned else number


class TooLong(BaseException):
    """Raised after a time in which no file takes so long."""


def attempt(data: bytes) -> tuple[str, str]:
    """What comes of opening a file: "opened", "refused" or the kind of finding, and the message."""
    from opyard.errors import OpyardError
    from opyard_onnx import load

    signal.setitimer(signal.ITIMER_REAL, 30)
    began = time.process_time()
    try:
        load(data)
        kind, text = "opened", ""
    except OpyardError as error:
        kind, text = "refused", str(error)
    except TooLong:
        kind, text = "hangs", ""
    except BaseException as error:
        kind, text = "crashes", f"{type(error).__name__}: {error}"
    signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.process_time() - began
    if seconds > 1:
        kind, text = ("slow" if kind in ("opened", "refused") else kind), f"{seconds:.2f} s: {text}"
    return kind, text


def worker(start: int, stop: int) -> None:
    """Attempts the files from ``start`` on, and prints a line for each."""

    def stop_it(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop_it)
    models = corpus()
    attempt(models[0])  # imports take their time once
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number in range(start, stop):
        print(json.dumps([number, *attempt(mutant(models, number))]), flush=True)


def run(start: int, stop: int) -> Iterator[tuple[int, str, str]]:
    """The results of files from ``start`` to ``stop``. Where the process dies, another one goes on behind."""
    while start < stop:
        command = [sys.executable, __file__, "--worker", str(start), str(stop)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                number, kind, text = json.loads(line)
                start = number + 1
                yield number, kind, text
        if process.returncode > 0:
            raise RuntimeError(f"the script itself is broken; try {' '.join(command)}")
        if start < stop:  # killed
            yield start, "dies", f"signal {-process.returncode}"
            start += 1


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--count", type=int, default=10_000)
    options.add_argument("--start", type=int, default=0)
    options.add_argument("--json", action="store_true")
    options.add_argument("--show", type=int)
    options.add_argument("--worker", type=int, nargs=2)
    given = options.parse_args()
    if given.worker:
        worker(*given.worker)
        return
    if given.show is not None:
        data = mutant(corpus(), given.show)
        print(helper.printable_graph(ModelProto.FromString(data).graph) if given.show % 2 else data)
        return
    began, counts, findings = time.perf_counter(), Counter[str](), []
    for number, kind, text in run(given.start, given.start + given.count):
        counts[kind] += 1
        if kind not in ("opened", "refused"):
            findings.append({"number": number, "kind": kind, "text": text[:300]})
            if not given.json:
                print(f"{kind} {number}: {text[:300]}", flush=True)
    report = {"counts": dict(counts), "findings": findings, "seconds": round(time.perf_counter() - began)}
    print(json.dumps(report) if given.json else report["counts"])
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
