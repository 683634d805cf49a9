# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a host is expected to need at most: feeds a predictor with what each pass sees, and keeps what it learned."""
from __future__ import annotations

import dataclasses
import logging
import math
import typing

from ovc_plugin import publish
from ovc_plugin.decide.demand import GuestDemand, HostDemand, Steps
from ovc_plugin.decide.predict import Prediction, Predictor
from ovc_plugin.model import HostSnapshot
from ovc_plugin.report_checks import MOST

LOG = logging.getLogger(__name__)
HORIZON = 86400.0


def demand(snapshot: HostSnapshot) -> HostDemand:
    """What each running guest makes the host back, in memory or in swap, and the most it may; bytes.

    An untouchable guest is backed whole. One whose size cannot be read is unknown, and with it the sum.
    """
    return HostDemand(at=snapshot.taken_at, guests=tuple(
        GuestDemand(uuid=g.uuid, limit=g.committed, used=g.committed if g.untouchable else None if g.resident is None
                    else g.resident + (g.swapped or 0)) for g in snapshot.running))


def in_memory(expected: Prediction, snapshot: HostSnapshot) -> int:
    """What memory, and what can still be reclaimed of it, has to hold of an expected peak and, as far as the reserve
    goes, of others; bytes. What these use beyond it is not in the report's total, and would count twice.

    A guest's demand is what it has in memory and in swap. Of a peak, what is in swap now can stay there, and that swap
    is counted as used: counted as a demand for memory too, it would be asked for twice.
    """
    swapped = sum(g.swapped or 0 for g in snapshot.running)
    return max(0, expected.peak - swapped) + min(snapshot.others, snapshot.reserve)


class Foresight:
    """Learns by steps of five minutes, and is asked at each pass. A predictor that fails predicts nothing, and costs
    nobody else anything; what it learned is kept in ``store`` across restarts."""

    def __init__(self, name: str, predictor: Predictor, store: publish.Store) -> None:
        self._name, self._predictor, self._store = name, predictor, store
        self._steps = Steps()
        self.error: str | None = None
        self._last: Prediction | None = None

    def recall(self) -> None:
        """Go on with what was learned before a restart, by the same predictor."""
        try:
            kept = self._store.load()
            if kept.get('predictor') == self._name:
                self._predictor.from_dict(kept['learned'])
        except Exception as error:  # as in see()
            LOG.warning('%s could not be read (%s): the host\'s peaks are learned anew', self._store.path, error)

    def see(self, snapshot: HostSnapshot) -> Prediction | None:
        """Learn from this pass, and say what the guests that are here may need at once within a day."""
        try:
            now = demand(snapshot)
            if done := self._steps.add(now):
                self._predictor.observe(done)
                self._keep()
            found = self._predictor.peak(now, HORIZON)
            peak = math.ceil(found.peak)  # a package's own may count in anything
            if not 0 <= peak <= MOST:
                raise ValueError(f'a peak of {peak} bytes cannot be')
            found = dataclasses.replace(found, peak=peak)
        except Exception as error:  # whoever wrote it, it may cost a prediction and nothing else
            text = f'{type(error).__name__}: {error}'
            if text != self.error:
                LOG.exception('predictor %s failed; nothing is predicted ([ovc_host] predictor names another)',
                              self._name)
            self.error, self._last = text, None
            return None
        self.error, self._last = None, found
        return found

    def fields(self) -> dict[str, typing.Any]:
        """For operators: what is expected and why, and by horizon how often that proved too low so far, where the
        predictor counts it (``errors()``, as :meth:`ovc_plugin.decide.predict.Calibrated.errors`)."""
        errors: list[dict[str, typing.Any]] = []
        try:
            count = getattr(self._predictor, 'errors', None)
            errors = list(count()) if callable(count) else []
        except Exception as error:  # as in see()
            LOG.debug('predictor %s cannot say how it did (%s)', self._name, error)
        return {'predictor': self._name, 'reason': self._last.reason if self._last else None, 'error': self.error,
                'horizons': errors}

    def _keep(self) -> None:
        try:
            self._store.save({'predictor': self._name, 'learned': self._predictor.to_dict()})
        except OSError as error:
            LOG.debug('%s cannot be written (%s)', self._store.path, error)  # the controller's own file says so aloud
