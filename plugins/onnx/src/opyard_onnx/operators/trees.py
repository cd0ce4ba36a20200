"""Ensembles of decision trees, all walked at once: each step takes every row one level down in every tree.

Source: ONNX ai.onnx.ml TreeEnsemble 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import opyard as oy
from opyard_onnx.errors import ModelError, UnsupportedModel
from opyard_onnx.node import OnnxNode
from opyard_onnx.operators.table import Operator

Array = np.ndarray[Any, Any]

_MODES: dict[int, Callable[..., Any]] = {
    0: oy.less_equal,
    1: oy.less,
    2: oy.greater_equal,
    3: oy.greater,
    4: oy.equal,
    5: oy.not_equal,
}
_MEMBER = 6
_TRANSFORMS: dict[int, Callable[..., Any]] = {
    0: oy.identity,
    1: lambda x: oy.softmax(x, axis=-1),
    2: oy.sigmoid,
}


@dataclass(frozen=True)
class Forest:
    """Trees as tables ``[nodes + leaves]``: leaves come after the nodes, and lead to themselves.

    members  ``[nodes + leaves, most members]``, NaN where there is none
    roots    ``[trees]``
    depth    steps from a root to the lowest leaf
    """

    modes: Array
    splits: Array
    features: Array
    on_true: Array
    on_false: Array
    missing: Array
    members: Array
    targets: Array
    weights: Array
    roots: Array
    depth: int

    def step(self, x: Any, places: Any) -> Any:
        """One level down. ``[rows, features], [rows, trees] -> [rows, trees]``."""
        found = oy.take_along_axis(x, self._at(self.features, places), axis=1)
        splits, modes, goes = self._at(self.splits, places), self._at(self.modes, places), None
        for mode in np.unique(self.modes).tolist():
            if mode == _MEMBER:
                same = oy.equal(oy.expand_dims(found, axis=-1), self._at(self.members, places))
                outcome = oy.any(same, axis=-1)
            else:
                outcome = _MODES[mode](found, splits)
            goes = outcome if goes is None else oy.where(oy.equal(modes, np.uint8(mode)), outcome, goes)
        if self.missing.any():
            unknown = oy.logical_and(oy.isnan(found), self._at(self.missing, places))
            goes = oy.logical_or(goes, unknown)
        return oy.where(goes, self._at(self.on_true, places), self._at(self.on_false, places))

    @staticmethod
    def _at(table: Array, places: Any) -> Any:
        return oy.gather(table, places, axis=0)


def read_forest(node: OnnxNode) -> Forest:
    """The attributes of a TreeEnsemble. Raises ModelError for trees that lead nowhere, or in circles."""
    splits = np.ravel(node.attribute("nodes_splits"))
    weights = np.ravel(node.attribute("leaf_weights"))
    nodes, leaves = len(splits), len(weights)

    def table(name: str, default: Any, size: int = nodes) -> Array:
        found = np.ravel(np.asarray(node.attribute(name, default), np.int64))
        if len(found) != size:
            raise ModelError(f"TreeEnsemble has {size} {name.partition('_')[0]}, and {len(found)} {name}.")
        return found

    modes = np.ravel(node.attribute("nodes_modes")).astype(np.uint8)
    if len(modes) != nodes or np.any(modes > _MEMBER):
        raise ModelError(f"TreeEnsemble needs a mode from 0 to {_MEMBER} for each of its {nodes} nodes.")
    children = []
    for side in ("true", "false"):
        to, is_leaf = table(f"nodes_{side}nodeids", ()), table(f"nodes_{side}leafs", ()) != 0
        if np.any(to < 0) or np.any(to >= np.where(is_leaf, leaves, nodes)):
            raise ModelError(f"TreeEnsemble has nodes_{side}nodeids that name nothing.")
        children.append(np.concatenate([to + is_leaf * nodes, nodes + np.arange(leaves)]))
    roots = np.asarray(node.attribute("tree_roots"), np.int64)
    if np.any(roots < 0) or np.any(roots >= nodes) or not len(roots):
        raise ModelError("TreeEnsemble has tree_roots that name nothing.")

    def padded(found: Array) -> Array:
        return np.concatenate([found, np.zeros((leaves, *found.shape[1:]), found.dtype)])

    return Forest(
        modes=np.concatenate([modes, np.full(leaves, modes[0])]),
        splits=padded(splits),
        features=padded(table("nodes_featureids", ())),
        on_true=children[0],
        on_false=children[1],
        missing=padded(table("nodes_missing_value_tracks_true", (0,) * nodes) != 0),
        members=padded(_members(node, modes, splits.dtype)),
        targets=np.concatenate([np.zeros(nodes, np.int64), table("leaf_targetids", (), leaves)]),
        weights=np.concatenate([np.zeros(nodes, weights.dtype), weights]),
        roots=roots,
        depth=_depth(roots, children, nodes),
    )


def _members(node: OnnxNode, modes: Array, dtype: Any) -> Array:
    """Sets of the nodes that ask for membership, in their order: ``[nodes, most members]``, NaN where there is none."""
    values = np.ravel(node.attribute("membership_values", np.zeros(0, dtype)))
    sets = np.split(values, np.flatnonzero(np.isnan(values)) + 1)[:-1]
    asking = np.flatnonzero(modes == _MEMBER)
    if len(sets) != len(asking):
        raise ModelError(f"TreeEnsemble has {len(asking)} nodes that ask for members, and {len(sets)} sets.")
    found = np.full((len(modes), max([len(s) for s in sets], default=0)), np.nan, dtype)
    for place, members in zip(asking, sets, strict=True):
        found[place, : len(members)] = members
    return found


def _depth(roots: Array, children: list[Array], nodes: int) -> int:
    level, depth = roots, 0
    while np.any(level < nodes):
        level, depth = np.unique(np.concatenate([side[level] for side in children])), depth + 1
        if depth > nodes:
            raise ModelError("the nodes of a TreeEnsemble lead in circles.")
    return depth


def tree_ensemble(node: OnnxNode) -> Any:
    forest, x = read_forest(node), node.x
    transform, count = node.attribute("post_transform", 0), node.attribute("n_targets", 1)
    if transform not in _TRANSFORMS:
        raise UnsupportedModel(f"TreeEnsemble with the post_transform {transform}; known are 0, 1 and 2.")
    if np.any(forest.targets < 0) or np.any(forest.targets >= count):
        raise ModelError(f"TreeEnsemble has leaf_targetids beyond its {count} targets.")
    start = oy.broadcast_to(forest.roots, shape=(x.shape[0], len(forest.roots)))
    if forest.depth:
        start, _ = oy.scan(lambda at, _: (forest.step(x, at), None), start, length=forest.depth)
    targets = oy.expand_dims(oy.gather(forest.targets, start, axis=0), axis=-1)
    weights = oy.expand_dims(oy.gather(forest.weights, start, axis=0), axis=-1)
    hits = oy.equal(targets, np.arange(count))
    return _TRANSFORMS[transform](_aggregated(node, hits, weights))


def _aggregated(node: OnnxNode, hits: Any, weights: Any) -> Any:
    """``[rows, trees, targets], [rows, trees, 1] -> [rows, targets]``."""
    kind, limits = node.attribute("aggregate_function", 1), np.finfo(weights.dtype)
    if kind in (0, 1):
        parts = oy.where(hits, weights, np.zeros((), weights.dtype))
        return (oy.sum if kind == 1 else oy.mean)(parts, axis=1)
    if kind == 2:
        return oy.min(oy.where(hits, weights, limits.max), axis=1)
    if kind == 3:
        return oy.max(oy.where(hits, weights, limits.min), axis=1)
    raise ModelError(f"the aggregate_function of TreeEnsemble is 0 to 3; found {kind}.")


OPERATORS = (Operator("TreeEnsemble", 5, tree_ensemble, "ai.onnx.ml"),)
