"""Text. Strings are no tensors of a graph: they are computed by NumPy while a model is imported.

Numbers that are turned into text, or counted as words, are asked for, and the rest of the model is a stage of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from opyard_onnx.errors import ModelError
from opyard_onnx.limits import require_size
from opyard_onnx.node import OnnxNode
from opyard_onnx.operators.table import Operator

Array = np.ndarray[Any, Any]


def _texts(items: Any, shape: tuple[int, ...]) -> Array:
    found = np.empty(len(items), object)
    found[:] = items
    return found.reshape(shape)


def concat(node: OnnxNode) -> Any:
    return node.inputs[0] + node.inputs[1]


def split(node: OnnxNode) -> Any:
    """Parts ``[..., most]``, filled with empty strings, and how many there are ``[...]``."""
    x, delimiter = node.inputs[0], node.attribute("delimiter", "") or None
    parts = [text.split(delimiter, node.attribute("maxsplit", -1)) for text in x.ravel()]
    most = max(map(len, parts), default=0)
    padded = [word for words in parts for word in (*words, *[""] * (most - len(words)))]
    counts = np.array([len(words) for words in parts], np.int64).reshape(x.shape)
    return _texts(padded, (*x.shape, most)), counts


_CHANGES: dict[str, Callable[[str], str]] = {
    "LOWER": lambda text: text.lower(),
    "UPPER": lambda text: text.upper(),
    "NONE": lambda text: text,
}


def normalize(node: OnnxNode) -> Any:
    x, stop = node.inputs[0], set(node.attribute("stopwords", ()))
    change = _CHANGES[node.attribute("case_change_action", "NONE")]
    sensitive = bool(node.attribute("is_case_sensitive", 0))
    if not sensitive:
        stop = {word.lower() for word in stop}
    kept = [change(word) for word in x.ravel() if (word if sensitive else word.lower()) not in stop]
    kept = kept or [""]
    return _texts(kept, (1, len(kept)) if x.ndim == 2 else (len(kept),))


def full_match(node: OnnxNode) -> Any:
    try:
        pattern = re.compile(node.attribute("pattern"))
    except re.error as error:
        raise ModelError(f"RegexFullMatch has a pattern that is none: {error}.") from None
    x = node.inputs[0]
    return np.array([pattern.fullmatch(text) is not None for text in x.ravel()], bool).reshape(x.shape)


def tfidf(node: OnnxNode) -> Any:
    """Counts of n-grams, with gaps of up to ``max_skip_count`` between their words: ``[n] -> [outputs]``, or each row."""
    x = node.value(0)
    pool = node.attribute("pool_strings", ()) or node.attribute("pool_int64s", ())
    places = node.attribute("ngram_indexes")
    weights = node.attribute("weights", ()) or (1.0,) * len(places)
    grams = _grams(pool, node.attribute("ngram_counts"))
    lengths = range(node.attribute("min_gram_length"), node.attribute("max_gram_length") + 1)
    rows = x if x.ndim == 2 else x.reshape(1, -1)
    require_size(len(rows) * (max(places) + 1), "TfIdfVectorizer")
    found = np.zeros((len(rows), max(places) + 1), np.float32)
    for row, words in zip(found, rows.tolist(), strict=True):
        counts = _counted(words, lengths, node.attribute("max_skip_count"))
        for number, gram in enumerate(grams):
            count = counts[gram] if len(gram) in lengths else 0
            mode = node.attribute("mode")
            if mode == "IDF":
                count = min(count, 1)
            row[places[number]] += count * (1.0 if mode == "TF" else weights[number])
    return found if x.ndim == 2 else found[0]


def _grams(pool: Any, starts: tuple[int, ...]) -> list[tuple[Any, ...]]:
    ends = (*starts[1:], len(pool))
    return [
        tuple(pool[i : i + size])
        for size, (start, end) in enumerate(zip(starts, ends, strict=True), 1)
        for i in range(start, end, size)
    ]


def _counted(words: list[Any], lengths: range, skips: int) -> Counter[tuple[Any, ...]]:
    found: Counter[tuple[Any, ...]] = Counter()
    for size in range(lengths.start, min(lengths.stop, len(words) + 1)):
        for step in range(1, 2 if size == 1 else min(skips + 2, len(words))):  # single words have no gaps
            for start in range(len(words) - step * (size - 1)):
                found[tuple(words[start + step * i] for i in range(size))] += 1
    return found


def encode_labels(node: OnnxNode) -> Any:
    """A table from keys to values. Source: ai.onnx.ml LabelEncoder."""
    x = node.value(0)
    keys, values = _table(node, "keys"), _table(node, "values")
    text = values.dtype == object
    default = _default(node, values)
    known = dict(zip(map(_key, keys.tolist()), values.tolist(), strict=True))
    found = [known.get(_key(item), default) for item in x.ravel().tolist()]
    return _texts(found, x.shape) if text else np.array(found, values.dtype).reshape(x.shape)


def _key(item: Any) -> Any:
    return "nan" if item != item else item


def _table(node: OnnxNode, name: str) -> Array:
    for kind, dtype in (("int64s", np.int64), ("floats", np.float32), ("strings", object), ("tensor", None)):
        if node.has(f"{name}_{kind}"):
            found = node.attribute(f"{name}_{kind}")
            return np.asarray(found) if dtype is None else np.array(found, dtype)
    raise ModelError(f"LabelEncoder needs {name}.")


def _default(node: OnnxNode, values: Array) -> Any:
    if node.has("default_tensor"):
        return np.asarray(node.attribute("default_tensor")).reshape(-1)[0].item()
    if values.dtype == object:
        return node.attribute("default_string", "_Unused")
    if values.dtype.kind == "f":
        return node.attribute("default_float", -0.0)
    return node.attribute("default_int64", -1)


OPERATORS = (
    Operator("LabelEncoder", 2, encode_labels, "ai.onnx.ml"),
    Operator("RegexFullMatch", 20, full_match),
    Operator("StringConcat", 20, concat),
    Operator("StringNormalizer", 10, normalize),
    Operator("StringSplit", 20, split),
    Operator("TfIdfVectorizer", 9, tfidf),
)
