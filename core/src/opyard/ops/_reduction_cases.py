"""Cases of the reductions."""

from __future__ import annotations

from ..cases import Case, Draw, case


def float_cases() -> list[Case]:
    """Shapes and axes that every reduction of a non-empty floating input takes."""
    return [
        case((3, 4)),
        case((2, 3, 5), axis=-1),
        case((2, 3, 5), axis=1, keepdims=True),
        case((2, 3, 5), axis=(0, 2)),
        case((2, 3, 5), axis=(-1, 0), keepdims=True),
        case(()),
        case((4, 0), axis=0),
        case((7,), axis=()),
        case(Draw((17, 33), "float32", 0.5, 2.0), axis=0),
        case(Draw((129, 65), "float32", 0.5, 2.0), axis=1),
        case(Draw((5, 6), "float64"), axis=1),
        case(Draw((4, 9), "float16"), axis=1),
        case(Draw((4, 9), "bfloat16"), axis=-2),
    ]


def integer_cases() -> list[Case]:
    return [
        case(Draw((4, 5), "int32", -9, 9), axis=0),
        case(Draw((4, 5), "int64", -9, 9), keepdims=True),
        case(Draw((3, 3), "uint8", 0, 255), axis=1),
    ]


def sum_cases() -> list[Case]:
    return [
        *float_cases(),
        *integer_cases(),
        case((0,)),
        case((3, 0), axis=1),
        case(Draw((4, 3), "complex64"), axis=0),
    ]


def mean_cases() -> list[Case]:
    return [*float_cases(), case((0,)), case((3, 0), axis=1), case(Draw((4, 3), "complex64"), axis=0)]


def variance_cases() -> list[Case]:
    return [
        *float_cases(),
        *(case((0,)), case((3, 0), axis=1), case((1,), correction=1), case((4, 5), axis=1, correction=1)),
        case((4, 5), axis=0, correction=0.5, keepdims=True),
    ]


def product_cases() -> list[Case]:
    return [
        *(
            case((3, 4)),
            case((2, 3, 5), axis=-1),
            case((2, 3, 5), axis=(0, 2), keepdims=True),
            case(()),
            case((0,)),
            case((3, 0), axis=1),
        ),
        case(Draw((31, 9), "float32", 0.5, 1.5), axis=1),
        case(Draw((4, 5), "int32", -9, 9), axis=0),
        case(Draw((3, 20), "int8", -9, 9), axis=-1),
        case(Draw((4, 3), "bfloat16"), axis=0),
        case(Draw((4, 3), "complex64"), axis=0),
    ]


def extremum_cases() -> list[Case]:
    return [*float_cases(), *integer_cases()]


def position_cases() -> list[Case]:
    return [
        *(
            case((3, 4)),
            case((2, 3, 5), axis=-1),
            case((2, 3, 5), axis=1, keepdims=True),
            case(()),
            case((4, 0), axis=0),
        ),
        *(case((17, 33), axis=0), case((3, 4), keepdims=True), case(Draw((5, 6), "float64"), axis=1)),
        case(Draw((4, 9), "bfloat16"), axis=-2),
        case(Draw((6, 7), "int32", -2, 2), axis=1),  # ties are certain
    ]


def truth_cases() -> list[Case]:
    return [
        *(
            case(Draw((3, 4), "bool")),
            case(Draw((2, 3, 5), "bool"), axis=-1),
            case(Draw((2, 3, 5), "bool"), axis=(0, 2), keepdims=True),
        ),
        *(
            case(Draw((), "bool")),
            case(Draw((0,), "bool")),
            case(Draw((3, 0), "bool"), axis=1),
            case(Draw((17, 33), "bool"), axis=0),
        ),
        case(Draw((6, 5), "int32", 0, 1), axis=1),
        case((3, 4), axis=0),
        case(Draw((4, 3), "bfloat16"), axis=0),
    ]


def cumulative_cases() -> list[Case]:
    return [
        *(
            case((5,)),
            case((3, 4), axis=0),
            case((3, 4), axis=-1, exclusive=True),
            case((2, 3, 4), axis=1, reverse=True),
        ),
        *(
            case((2, 7), axis=1, exclusive=True, reverse=True),
            case((0,)),
            case((3, 0), axis=1),
            case((0, 3), axis=1),
        ),
        case(Draw((3, 65), "float32", 0.5, 2.0), axis=1),
        case(Draw((4, 5), "int32", -9, 9), axis=0),
        case(Draw((4, 5), "bfloat16"), axis=0),
    ]
