"""The ONNX forms of convolutions and poolings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import opyard as oy
from opyard.ops.windows import padding_pairs, split_total

if TYPE_CHECKING:
    from opyard_onnx.exporting import Export, Writer


def windowed(op_type: str, *more: str) -> Export:
    """Convolutions and poolings. "same" padding depends on sizes, so they must be known."""

    def export(writer: Writer, node: oy.Node) -> Any:
        x, given = node.inputs[0], node.call.attrs
        assert x is not None
        rank = x.ndim - 2
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        kernel = _each(given["kernel"], rank) if weight is None else tuple(int(n) for n in weight.shape[2:])
        strides = kernel if given["strides"] is None else _each(given["strides"], rank)
        dilations = _each(given["dilations"], rank)
        attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
        if given["padding"] in ("same_upper", "same_lower"):
            attributes["auto_pad"] = given["padding"].upper()
        else:
            pairs = padding_pairs(given["padding"], x.shape[2:], kernel, strides, dilations)
            attributes["pads"] = [*(before for before, _ in pairs), *(after for _, after in pairs)]
        for name in more:
            value = given["groups" if name == "group" else name]
            attributes[name] = int(value)
        names = writer.alike(node) if weight is not None else writer.inputs(node)
        return writer.add(op_type, names, **attributes)

    return export


def conv_transpose(writer: Writer, node: oy.Node) -> Any:
    """ "same" padding is written out: ONNX means another one by the word where there is output padding."""
    x, weight, *_ = node.inputs
    assert x is not None and weight is not None
    given, rank = node.call.attrs, x.ndim - 2
    kernel = tuple(int(n) for n in weight.shape[2:])
    strides, dilations = _each(given["strides"], rank), _each(given["dilations"], rank)
    extra = list(_each(given["output_padding"], rank))
    if given["padding"] in ("same_upper", "same_lower"):
        totals = [
            (k - 1) * d + 1 - s + p for k, d, s, p in zip(kernel, dilations, strides, extra, strict=True)
        ]
        extra = [p + max(0, -total) for p, total in zip(extra, totals, strict=True)]
        pairs = tuple(split_total(max(0, total), given["padding"]) for total in totals)
    else:
        pairs = padding_pairs(given["padding"], x.shape[2:], kernel, strides, dilations)
    pads = [*(before for before, _ in pairs), *(after for _, after in pairs)]
    return writer.add(
        *("ConvTranspose", writer.alike(node)),
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        pads=pads,
        output_padding=extra,
        group=given["groups"],
    )


def _each(value: Any, rank: int) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,) * rank
