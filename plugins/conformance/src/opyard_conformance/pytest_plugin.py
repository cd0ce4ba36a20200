"""For pytest: ``--opyard-backend=NAME`` and the argument ``conformance_case``, one for each case of each kernel of a backend.

    def test_my_kernels(conformance_case):
        conformance_case.check()

pytest imports this module whenever it runs where opyard-conformance is installed, so nothing else is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


def pytest_addoption(parser: Any) -> None:
    """Adds the options."""
    group = parser.getgroup("opyard", "conformance of opyard kernels")
    group.addoption(
        "--opyard-backend",
        action="append",
        default=[],
        metavar="NAME",
        help="make the argument conformance_case of every case of this backend; may be repeated",
    )
    group.addoption(
        "--opyard-op",
        action="append",
        default=[],
        metavar="OP",
        help="of this op alone; may be repeated",
    )
    group.addoption("--opyard-level", default="core", choices=("smoke", "core", "full"))
    group.addoption("--opyard-seed", type=int, default=0, help="draw other numbers for the same cases")


def pytest_generate_tests(metafunc: Any) -> None:
    """Gives tests that take ``conformance_case`` one case after the other; without a backend they are skipped."""
    if "conformance_case" not in metafunc.fixturenames:
        return
    import pytest

    options = metafunc.config.option
    found = [
        pytest.param(case, id=case.id)
        for backend in options.opyard_backend
        for case in _cases(backend, options.opyard_op, options.opyard_level, options.opyard_seed)
    ]
    if not found:
        reason = "no backend is given: pytest --opyard-backend=NAME"
        found = [pytest.param(None, marks=pytest.mark.skip(reason), id="none")]
    metafunc.parametrize("conformance_case", found)


@dataclass(frozen=True, slots=True)
class ConformanceCase:
    """One case of one kernel on one device."""

    registry: Any
    name: str
    kernel: Any
    device: Any
    trial: Any
    seed: int

    @property
    def id(self) -> str:
        """The op, or patterns or regions, the kernel, the device and the case."""
        return f"{self.name}-{self.kernel.name}-{self.device.name}-{self.trial.id}"

    def check(self) -> None:
        """Passes, fails with a sentence and the command for this case alone, or skips what the kernel refuses."""
        import pytest

        from opyard_conformance.runner import run_trial

        outcomes = run_trial(self.registry, self.name, self.trial, [self.kernel], self.device, self.seed)
        for outcome in outcomes:
            if outcome.status == "failed":
                pytest.fail(f"{outcome.detail}\n    {outcome.command}", pytrace=False)
            if outcome.status != "passed":
                pytest.skip(f"{outcome.status}: {outcome.detail}")


def _cases(backend: str, ops: list[str], level: str, seed: int) -> Iterator[ConformanceCase]:
    import numpy as np

    from opyard import default_registry
    from opyard_conformance.runner import devices_of, select_kernels, trials_for

    registry = default_registry()
    for name, kernels in select_kernels(registry, backend, ops).items():
        for device in devices_of(registry, backend):
            for members, made in trials_for(registry, name, kernels, device, level):
                for trial in made(level):
                    if not trial.layout or device.array_type is np.ndarray:
                        for kernel in members:
                            yield ConformanceCase(registry, name, kernel, device, trial, seed)
