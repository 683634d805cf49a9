# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Placement's MEMORY_MB allocation_ratio of this host: kept while somebody keeps the promise, given back afterwards.

Which ratios are ours is written down before placement is told, so that a nova-compute that was killed, or whose
controller does not start any more, can still give nova's own back. A ratio that is not ours is never given back.
"""
from __future__ import annotations

import typing

import nova.conf
from nova import context as nova_context
from nova import exception
from oslo_log import log as logging

from ovc_plugin.model import MIB
from ovc_plugin.nova import preflight
from ovc_plugin.publish import Store

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

ATTEMPTS = 4
# Placement's database may hold single precision.
SAME = 1e-3

# From the ratio now and the capacity (total - reserved, in bytes) to the ratio to keep.
Decide = typing.Callable[[float, int], float]


class ProviderRatio:
    """One host's ratio. ``directory`` is [ovc_host] state_path."""

    def __init__(self, directory: str, host: str) -> None:
        self._store = Store(f'{directory}/ratio', host)
        self._decided: float | None = None  # at the last audit; None: to be decided
        self._uuid: str | None = None
        self._ours: list[float] = []
        self._newest: str | None = None
        self._warned = False
        self._said: tuple[float, float] | None = None
        try:
            kept = self._store.load()
            if kept:
                self._uuid, self._ours = str(kept['provider']), [float(ratio) for ratio in kept['ratios']]
        except (OSError, KeyError, TypeError, ValueError) as error:
            LOG.warning('%s could not be read (%s): if placement\'s MEMORY_MB allocation_ratio of this host is above '
                        'initial_ram_allocation_ratio, look whether that is meant', self._store.path, error)

    def refuse_old(self, client: typing.Any) -> None:
        """Ask placement once how old it is. ``client`` is nova's of placement.

        :raises ValueError: so old that a lowered ratio would keep guests from leaving.
        """
        if self._newest is None:
            try:
                self._newest = preflight.newest_of(client.get('/'))
            except Exception as error:  # whatever keeps it from answering, nova meets it too, and says so
                LOG.debug('placement has not told its version: %s', error)
                return
        if preflight.too_old(self._newest):
            raise ValueError(f'placement\'s newest microversion is {self._newest} < {preflight.MICROVERSION}: guests '
                             'could not leave a host whose ratio is below what is used; upgrade placement to '
                             f'{preflight.OLDEST} or later, or set [ovc_host] manage_ratio = false')

    def new_audit(self) -> None:
        """Decide anew. Claims come the same way, and each change in one of them costs placement a conflict."""
        self._decided = None

    def follow(self, tree: typing.Any, nodename: str, decide: Decide | None) -> None:
        """Set the ratio in nova's provider tree; without ``decide`` nobody keeps our promise: nova's own is set.

        :raises ValueError: the operator has fixed the ratio in the configuration.
        """
        if CONF.ram_allocation_ratio:
            self._remember(None, [])
            if decide is not None:
                raise ValueError('[DEFAULT] ram_allocation_ratio is set, so placement\'s ratio is not ours to keep: '
                                 'remove it (initial_ram_allocation_ratio may stay), or set [ovc_host] manage_ratio = '
                                 'false')
            return
        data = tree.data(nodename)
        memory = data.inventory['MEMORY_MB']
        before = memory['allocation_ratio']
        if decide is None:
            wanted = self._to_give_back(data.uuid, before)
        else:
            if self._decided is None:
                self._decided = decide(before, (memory['total'] - memory['reserved']) * MIB)
            wanted = self._decided
        if wanted is None or wanted == before:
            return
        if decide is not None:
            self._remember(data.uuid, [wanted, *([before] if self._is_ours(data.uuid, before) else [])])
        if self._said != (before, wanted):  # nova comes again when placement had a conflict
            LOG.info('placement\'s MEMORY_MB allocation_ratio of %s: %.4g -> %.4g', nodename, before, wanted)
        self._said = before, wanted
        tree.update_inventory(nodename, {**data.inventory, 'MEMORY_MB': {**memory, 'allocation_ratio': wanted}})

    def give_back(self, client: typing.Any) -> None:
        """Tell placement at once, as nova-compute stops. ``client`` is nova's of placement.

        :raises nova.exception.NovaException: placement does not take it.
        """
        uuid, admin = self._uuid, nova_context.get_admin_context()
        for attempt in range(1, ATTEMPTS + 1):
            if uuid is None:
                return
            # Guests came and went since nova-compute last looked.
            client.invalidate_resource_provider(uuid)
            data = client.get_provider_tree_and_ensure_root(admin, uuid).data(uuid)
            wanted = self._to_give_back(uuid, data.inventory['MEMORY_MB']['allocation_ratio'])
            if wanted is None:
                return
            memory = {**data.inventory['MEMORY_MB'], 'allocation_ratio': wanted}
            try:
                client.set_inventory_for_provider(admin, uuid, {**data.inventory, 'MEMORY_MB': memory})
                break
            except exception.ResourceProviderUpdateConflict:
                if attempt == ATTEMPTS:
                    raise
        self._remember(None, [])

    def _to_give_back(self, uuid: str, ratio: float) -> float | None:
        """Nova's own ratio where ``ratio`` is ours. What is ours is forgotten once placement shows another."""
        initial = float(CONF.initial_ram_allocation_ratio)
        if self._is_ours(uuid, ratio) and abs(ratio - initial) >= SAME:
            return initial
        self._remember(None, [])
        return None

    def _is_ours(self, uuid: str, ratio: float) -> bool:
        return uuid == self._uuid and any(abs(ratio - ours) < SAME for ours in self._ours)

    def _remember(self, uuid: str | None, ours: list[float]) -> None:
        if (uuid, ours) == (self._uuid, self._ours):
            return
        self._uuid, self._ours = uuid, ours
        try:
            self._store.save({'provider': uuid, 'ratios': ours} if uuid else {})
        except OSError as error:
            if not self._warned:
                LOG.warning('%s cannot be written (%s): were nova-compute killed now, placement would keep the '
                            'allocation_ratio it has; give nova-compute a writable [ovc_host] state_path',
                            self._store.path, error)
            self._warned = True
