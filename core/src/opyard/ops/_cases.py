"""Case lists that many elementwise ops share."""

from __future__ import annotations

from ..cases import Case, Draw, case

Range = tuple[float, float]

_SHAPES = {
    "float64": (7,),
    "float16": (5, 3),
    "bfloat16": (2, 3, 4),
    "int32": (4, 5),
    "uint8": (9,),
    "complex64": (3, 5),
    "bool": (2, 7),
}


def unary_cases(low: float = -2.0, high: float = 2.0, *further: str) -> list[Case]:
    """Matrix, 0-d, empty, long and odd-sized arrays of every float dtype, and one array of each further dtype."""
    shapes = [(3, 4), (), (0, 3), (257, 129)]
    return [
        *(case(_draw(shape, "float32", (low, high))) for shape in shapes),
        *(
            case(_draw(_SHAPES[dtype], dtype, (low, high)))
            for dtype in ("float64", "float16", "bfloat16", *further)
        ),
    ]


def binary_cases(*further: str, first: Range = (-2.0, 2.0), second: Range = (-2.0, 2.0)) -> list[Case]:
    """Equal, broadcast, 0-d and empty operands of every float dtype, and a broadcast pair of each further dtype."""
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]]
    shapes = [
        ((3, 4), (3, 4)),
        ((2, 3, 4), (3, 1)),
        ((), (5,)),
        ((), ()),
        ((0, 3), (3,)),
        ((257, 129), (257, 129)),
    ]
    pairs = [(left, right, "float32") for left, right in shapes]
    for dtype in ("float64", "float16", "bfloat16", *further):
        shape = _SHAPES[dtype]
        pairs.append((shape, shape[-1:], dtype))
    return [case(_draw(left, dtype, first), _draw(right, dtype, second)) for left, right, dtype in pairs]


def numeric_cases() -> list[Case]:
    """binary_cases with integers and complex numbers."""
    return binary_cases("int32", "uint8", "complex64")


def _draw(shape: tuple[int, ...], dtype: str, limits: Range) -> Draw:
    if (
        "int" in dtype
    ):  # whole numbers on the same side of zero, so that a divisor which may not be zero stays so
        limits = (-9 if limits[0] < 0 else 1, 9)
    return Draw(shape, dtype, *limits)
