"""Rescue: the kernels that failed in one run, which the rest of it does without, and what took over in the end."""

from __future__ import annotations

from .errors import KernelError
from .executable import StepFailed
from .plan import Plan
from .registry import REFERENCE, Registry, describe_error
from .selection import active_policy
from .takeover import report_failure


class Failures:
    """Empty as long as all goes well. ``plans`` are those that were made to go around what failed."""

    def __init__(self) -> None:
        self.met: list[StepFailed] = []
        self.plans: list[Plan] = []

    def __bool__(self) -> bool:
        return bool(self.met)

    @property
    def unavailable(self) -> list[tuple[str, str]]:
        """(op, backend/kernel) pairs for ``place``."""
        return [(past.step.kernel.scope(past.step.work), past.step.kernel.id) for past in self.met]

    def note(self, failure: StepFailed) -> None:
        """Remembers a failure, to be placed around; raises where that is not wanted or cannot help."""
        step, error = failure.step, failure.error
        if isinstance(
            error, Warning
        ):  # the user's warning filter made an error of it: no fault of the kernel
            raise error
        if active_policy().strict:
            raise KernelError(
                f"kernel {step.kernel.id} failed on {step.work}: {describe_error(error)} (OPYARD_STRICT=1)."
            ) from error
        if step.kernel.backend == REFERENCE:
            raise self.final(failure)
        self.met.append(failure)

    def final(self, failure: StepFailed | None = None) -> Exception:
        """The error to show when nothing can compute a step: that of the kernel which was chosen for it first."""
        last = failure or self.met[-1]
        first = next((past for past in self.met if past.step.work.title == last.step.work.title), last)
        first.error.add_note(
            f"raised by kernel {first.step.kernel.id} in {first.step.work}; no other kernel can compute it either"
        )
        return first.error

    def report(self, registry: Registry) -> None:
        """Puts the kernels aside, now that all is done, and says what computed their work instead."""
        ids = {(past.step.work.title, past.step.kernel.id) for past in self.met}
        for past in self.met:
            work = past.step.work
            found = (plan.runs(work) for plan in reversed(self.plans))
            able = (kernel for kernel in found if kernel is not None and (work.title, kernel) not in ids)
            substitute = next(able, "other kernels, for its parts,")
            report_failure(registry, work, past.step.kernel, past.reason, substitute)
