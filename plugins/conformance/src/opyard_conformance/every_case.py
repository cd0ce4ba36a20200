"""A test of every case, for those who have no test of their own: ``pytest --pyargs opyard_conformance.every_case``."""

from __future__ import annotations

from typing import Any


def test_case(conformance_case: Any) -> None:
    """The kernel passes the case, or refuses it."""
    conformance_case.check()
