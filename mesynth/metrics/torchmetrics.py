"""Measures of mesynth inside ``torchmetrics``: in a ``MetricCollection``, over the processes of a distributed run.

Needs the package torchmetrics (``pip install "mesynth[torchmetrics]"``).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from numbers import Real
from typing import Any

import torch

from mesynth.core.errors import MesynthError
from mesynth.metrics.base import MeasureRow

try:
    import torchmetrics
except ImportError as error:
    raise MesynthError('torchmetrics is not installed; run `pip install "mesynth[torchmetrics]"`') from error


class Measure(torchmetrics.Metric):
    """Any object with ``update``, ``compute`` and ``merge`` as a ``torchmetrics.Metric``.

    What ``compute`` gives becomes tensors by name (a number one tensor, rows of a report their values by key). At the
    end of an epoch of a distributed run the objects of all processes are merged in the order of their ranks.

    Args:
        make: makes the measure, called again by ``reset``: ``Measure(FlowErrors)``.

    Raises:
        MesynthError: what is made is no measure; and what the measure raises.

    >>> import numpy as np
    >>> from mesynth.metrics.streams import FlowErrors, FrechetDistance
    >>> all_of_them = torchmetrics.MetricCollection({"flow": Measure(FlowErrors)})
    >>> all_of_them.update(flow=torch.zeros(2, 2, 8, 8), target=torch.ones(2, 2, 8, 8))
    >>> {name: round(float(value), 3) for name, value in all_of_them.compute().items() if "epe" in name}
    {'epe': 1.414}
    """

    full_state_update = True

    def __init__(self, make: Callable[[], Any], **options: Any) -> None:
        super().__init__(**options)
        self._make, self.inner = make, make()
        for name in ("update", "compute", "merge"):
            if not callable(getattr(self.inner, name, None)):
                raise MesynthError(f"a {type(self.inner).__name__} has no {name}(); give a class of measures")
        # A collection hands each of its measures those of its named arguments that it takes.
        self._update_signature = inspect.signature(self.inner.update)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As the measure's own."""
        self.inner.update(*args, **kwargs)

    def compute(self) -> Any:
        """A tensor, or tensors by name."""
        return _tensors(self.inner.compute())

    def reset(self) -> None:
        """Forget everything taken in."""
        super().reset()
        self.inner = self._make()

    def merge_state(self, incoming_state: Any) -> None:
        """Take in what another one has taken in."""
        if not isinstance(incoming_state, Measure):
            raise MesynthError(f"a {type(incoming_state).__name__} cannot be merged; give another Measure")
        self.inner.merge(incoming_state.inner)
        self._computed = None
        self._update_count += incoming_state._update_count

    # What torchmetrics keeps aside while it looks at one batch, or at all processes: the object itself.
    def _copy_state_dict(self) -> dict[str, Any]:
        return {**super()._copy_state_dict(), "inner": copy.deepcopy(self.inner)}

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:
        found: list[Any] = [None] * torch.distributed.get_world_size(process_group)
        torch.distributed.all_gather_object(found, self.inner, group=process_group)
        merged = found[0]
        for other in found[1:]:
            merged.merge(other)
        self.inner = merged


def _tensors(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and all(isinstance(row, MeasureRow) for row in value):
        value = {row.key: row.value for row in value}
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {name: torch.tensor(float(one)) for name, one in value.items() if isinstance(one, (Real, float))}
    return torch.tensor(float(value))
