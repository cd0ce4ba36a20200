"""Backend classes for ``onnx.backend.test``: one for each device, as the suite itself knows CPU and CUDA alone."""

from __future__ import annotations

import unittest
from collections import Counter
from collections.abc import Sequence
from typing import Any

from onnx.backend.base import Backend, BackendRep

from opyard_onnx.errors import UnsupportedModel
from opyard_onnx.model import Model


class PreparedModel(BackendRep):  # type: ignore[misc]
    """A model with ``run(inputs)``, which takes arrays in the order of the model's inputs.

    observe  counts the nodes that ran, by backend
    """

    def __init__(self, model: Model, observe: Counter[str] | None = None) -> None:
        self.model = model
        self._observe = observe

    def run(self, inputs: Sequence[Any], **_: Any) -> tuple[Any, ...]:
        """The outputs in their order. Raises unittest.SkipTest, with the reason, for what is not imported."""
        feeds = dict(zip(self.model.inputs, inputs, strict=False))
        try:
            found = tuple(self.model.run(feeds))
            if self._observe is not None:
                for placement in self.model.placements(feeds):
                    self._observe.update(d.chosen.kernel.backend for d in placement.decisions)
            return found
        except UnsupportedModel as error:
            raise unittest.SkipTest(str(error)) from None


def backend_for(name: str, *, observe: Counter[str] | None = None, **options: Any) -> type[Backend]:
    """A Backend class whose models run with these options of opyard.Session, such as devices.

    observe  counts the nodes that ran, by backend
    """

    class OpyardBackend(Backend):  # type: ignore[misc]
        @classmethod
        def prepare(cls, model: Any, device: str = "CPU", **_: Any) -> PreparedModel:
            try:
                return PreparedModel(Model(model, **options), observe)
            except UnsupportedModel as error:
                # not BackendIsNotSupposedToImplementIt: the suite counts that as passed
                raise unittest.SkipTest(str(error)) from None

        @classmethod
        def supports_device(cls, device: str) -> bool:
            return device == "CPU"

    OpyardBackend.__name__ = f"{name.title()}Backend"
    return OpyardBackend
