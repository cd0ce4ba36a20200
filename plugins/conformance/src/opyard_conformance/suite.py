"""For the tests of a plugin: a class of tests for all kernels of a backend, in one line. Needs pytest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opyard import default_registry
from opyard.errors import installing
from opyard.registry import Registry
from opyard_conformance.report import Outcome
from opyard_conformance.runner import devices_of, run_trial, select_kernels, trials_for

_SHOWN = 5


def conformance_suite(
    backend: str,
    *,
    ops: Sequence[str] = (),
    kernel: str = "",
    level: str = "core",
    registry: Callable[[], Registry] = default_registry,
) -> type:
    """A class for pytest with one test for each kernel of each op of a backend: ``TestMine = conformance_suite("mine")``.

    A test fails with the first failures and the commands that run them alone. It is skipped where the kernel refuses every
    case, with its sentences, and where the backend has no device here. ``registry`` gives where to look, by default in all
    installed plugins. Raises RegistryError for an unknown backend, op or kernel, and ImportError without pytest.
    """
    try:
        import pytest
    except ImportError as error:
        raise ImportError(
            f"conformance_suite makes tests for pytest, which cannot be imported here: {error}. Type: {installing('opyard-conformance[pytest]')}"
        ) from error
    found = registry()
    pairs = [(name, k) for name, ks in select_kernels(found, backend, ops, kernel).items() for k in ks]

    class Conformance:
        """One test for each kernel of each op."""

        @pytest.mark.parametrize(("name", "kernel"), pairs, ids=[f"{name}-{k.id}" for name, k in pairs])
        def test_kernel(self, name: str, kernel: Any) -> None:
            """The kernel passes every trial that it accepts."""
            status = found.open(backend.partition(":")[0])
            if not status.devices:
                pytest.skip(f"{backend} has no device here: {status.reason}")
            outcomes = [
                outcome
                for device in devices_of(found, backend)
                for kernels, made in trials_for(found, name, [kernel], device, level)
                for trial in made(level)
                for outcome in run_trial(found, name, trial, kernels, device)
            ]
            failures = [o for o in outcomes if o.status == "failed"]
            if failures:
                pytest.fail(_told(failures), pytrace=False)
            if not any(o.status == "passed" for o in outcomes):
                reasons = dict.fromkeys(o.detail for o in outcomes if o.detail)
                pytest.skip(f"{kernel.title} ran no case: {'; '.join(reasons) or 'the op states none'}")

    return Conformance


def _told(failures: list[Outcome]) -> str:
    lines = [f"{len(failures)} cases failed"]
    for outcome in failures[:_SHOWN]:
        lines += [f"{outcome.op} {outcome.kernel}: {outcome.detail}", f"    {outcome.command}"]
    if len(failures) > _SHOWN:
        lines.append(f"and {len(failures) - _SHOWN} more")
    return "\n".join(lines)
