# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Placement's MEMORY_MB allocation_ratio of this host: kept while somebody keeps the promise, given back afterwards.

Which ratios are ours, and which one was there before, is written down before placement is told, so that a nova-compute
that was killed, or whose controller does not start any more, can still put it back. A ratio that is not ours is never
touched then. Unless placement is known to let guests leave a host that is over its ratio, it is never below what is
used.
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
NOT_FOUND = 404
# Placement's database may hold single precision.
SAME = 1e-3
_RECENT = 8  # ratios of ours that are remembered
_TRIED_AGAIN_AFTER = 60  # looks at placement, about one a minute, that could not be made before another is tried

# From the ratio now and the capacity (total - reserved, in bytes) to the ratio to keep.
Decide = typing.Callable[[float, int], float]


class ProviderRatio:
    """One host's ratio. ``directory`` is [ovc_host] state_path."""

    def __init__(self, directory: str, host: str) -> None:
        self._store = Store(f'{directory}/ratio', host, durable=True)
        self._decided: float | None = None  # at the last audit; None: to be decided
        self._uuid: str | None = None
        self._ours: list[float] = []
        self._before: float | None = None  # set by others, before ours; None: nova's own
        self._leaves: tuple[bool | None, str] | None = None  # once placement has been looked at: whether, and why
        self._patience = 0
        self._warned = False
        self._said: tuple[float, float] | None = None
        try:
            kept = self._store.load()
            if self._store.torn:
                raise ValueError('it says nothing')
            if kept:
                self._uuid, self._ours = str(kept['provider']), [float(ratio) for ratio in kept['ratios']]
                self._before = float(kept['before']) if kept.get('before') else None
        except (OSError, KeyError, TypeError, ValueError) as error:
            LOG.warning('%s could not be read (%s): if placement\'s MEMORY_MB allocation_ratio of this host is above '
                        'initial_ram_allocation_ratio, look whether that is meant', self._store.path, error)

    def refuse_old(self, client: typing.Any) -> None:
        """Look at placement once, before any ratio is set. ``client`` is nova's of placement.

        :raises ValueError: it is so old that a lowered ratio would keep guests from leaving.
        """
        leaves, why = self._looked(client)
        if leaves is False:
            raise ValueError(f'{why}: guests could not leave a host whose ratio is below what is used; upgrade '
                             f'placement to {preflight.OLDEST} or later, or set [ovc_host] manage_ratio = false')

    def _looked(self, client: typing.Any) -> tuple[bool | None, str]:
        """Whether guests can leave a host over its ratio; ``None`` where it cannot be told. Kept once it answered."""
        if self._leaves is not None and (self._leaves[0] is not None or self._patience > 0):
            self._patience -= 1
            return self._leaves
        asked = preflight.OfNova(client)
        try:
            newest = preflight.newest_of(asked.get('/'))
        except Exception as error:  # whatever keeps it from answering, nova meets it too, and says so
            LOG.debug('placement has not told its version: %s', error)
            return None, 'it does not answer'
        if preflight.too_old(newest):
            self._leaves = False, f'placement\'s newest microversion is {newest} < {preflight.MICROVERSION}'
            return self._leaves
        try:
            leaves = preflight.lets_leave(asked)
            self._leaves = leaves, 'tried with a provider of its own'
            if not leaves:
                self._leaves = False, f'placement is older than {preflight.OLDEST} (tried)'
        except Exception as error:  # to be allowed less than we ask for is no reason to keep no ratio
            self._leaves, self._patience = (None, str(error)), _TRIED_AGAIN_AFTER
            LOG.warning('whether placement is %d or later could not be tried (%s): the allocation_ratio of this host '
                        'is never set below what is used, not even to give it back; "ovc check --probe" tries as '
                        'another user', preflight.OLDEST, error)
        return self._leaves

    def new_audit(self) -> None:
        """Decide anew. Claims come the same way, and each change in one of them costs placement a conflict."""
        self._decided = None

    def follow(self, tree: typing.Any, nodename: str, decide: Decide | None, client: typing.Any) -> None:
        """Set the ratio in nova's provider tree; without ``decide`` nobody keeps our promise: the one before is set.

        :raises ValueError: the operator has fixed the ratio in the configuration.
        :raises ovc_plugin.nova.preflight.PlacementError: it does not say what is used.
        """
        if CONF.ram_allocation_ratio:
            self._remember(None, [], None)
            if decide is not None:
                # nova-compute does not start without the line where guests' memory is file-backed.
                needed = CONF.libvirt.file_backed_memory
                raise ValueError('[DEFAULT] ram_allocation_ratio is set, so placement\'s ratio is not ours to keep: '
                                 + ('' if needed else 'remove it (initial_ram_allocation_ratio may stay), or ')
                                 + 'set [ovc_host] manage_ratio = false')
            return
        data = tree.data(nodename)
        memory = data.inventory['MEMORY_MB']
        now = memory['allocation_ratio']
        if decide is None:
            if self._ours and not self._is_to_go(data.uuid, now):
                # What nova has kept of placement may be behind: where an answer was lost, ours is there all the same.
                found = self.give_back(client)
                if found is not None and found != now:
                    memory = {**memory, 'allocation_ratio': found}
                    tree.update_inventory(nodename, {**data.inventory, 'MEMORY_MB': memory})
                return
            wanted = self._to_give_back(data.uuid, now)
        else:
            if self._decided is None:
                self._decided = decide(now, (memory['total'] - memory['reserved']) * MIB)
            wanted = self._decided
        if wanted is None or wanted == now:
            return
        wanted = self._untrapped(client, data.uuid, memory, wanted)
        self._note(data.uuid, now, wanted)
        if self._said != (now, wanted):  # nova comes again when placement had a conflict
            LOG.info('placement\'s MEMORY_MB allocation_ratio of %s: %.4g -> %.4g', nodename, now, wanted)
        self._said = now, wanted
        tree.update_inventory(nodename, {**data.inventory, 'MEMORY_MB': {**memory, 'allocation_ratio': wanted}})

    def give_back(self, client: typing.Any) -> float | None:
        """Tell placement at once, as nova-compute stops. ``client`` is nova's of placement.

        :returns: the ratio that placement has now; ``None`` where it has no such provider, or none is ours.
        :raises nova.exception.NovaException: placement does not take it.
        :raises ovc_plugin.nova.preflight.PlacementError: it does not say what is used.
        """
        uuid, admin = self._uuid, nova_context.get_admin_context()
        for attempt in range(1, ATTEMPTS + 1):
            if uuid is None:
                return None
            # One that was deleted (with the service) nova's client would make anew, and name it by its id: nova-compute
            # keeps that id, and would from then on find no provider of its own name.
            if preflight.OfNova(client).get(f'/resource_providers/{uuid}', raise_exc=False).status_code == NOT_FOUND:
                self._remember(None, [], None)
                return None
            # Guests came and went since nova-compute last looked.
            client.invalidate_resource_provider(uuid)
            data = client.get_provider_tree_and_ensure_root(admin, uuid).data(uuid)
            memory = data.inventory['MEMORY_MB']
            target = self._to_give_back(uuid, memory['allocation_ratio'])
            if target is None:
                return float(memory['allocation_ratio'])
            wanted = self._untrapped(client, uuid, memory, target)
            memory = {**memory, 'allocation_ratio': wanted}
            try:
                client.set_inventory_for_provider(admin, uuid, {**data.inventory, 'MEMORY_MB': memory})
                break
            except exception.ResourceProviderUpdateConflict:
                if attempt == ATTEMPTS:
                    raise
        if wanted == target:
            self._remember(None, [], None)
            return float(wanted)
        self._remember(uuid, [wanted], self._before)
        LOG.warning('placement\'s MEMORY_MB allocation_ratio of this host is %.4g and not %.4g: so much is in use, and '
                    'guests may not be able to leave below it; "ovc release" gives the rest once some have left',
                    wanted, target)
        return float(wanted)

    def _untrapped(self, client: typing.Any, uuid: str, memory: dict[str, typing.Any], wanted: float) -> float:
        """``wanted``, or what is used where guests might then not be able to leave."""
        now = memory['allocation_ratio']
        if wanted >= now or self._looked(client)[0]:
            return wanted
        return max(wanted, min(now, preflight.floor(preflight.used_mb(preflight.OfNova(client), uuid), memory)))

    def _to_give_back(self, uuid: str, ratio: float) -> float | None:
        """The ratio before ours where ``ratio`` is ours. What is ours is forgotten once placement shows another."""
        if self._is_to_go(uuid, ratio):
            return self._initial
        self._remember(None, [], None)
        return None

    @property
    def _initial(self) -> float:
        return float(CONF.initial_ram_allocation_ratio) if self._before is None else self._before

    def _is_to_go(self, uuid: str, ratio: float) -> bool:
        return self._is_ours(uuid, ratio) and abs(ratio - self._initial) >= SAME

    def _note(self, uuid: str, now: float, wanted: float) -> None:
        """That ``wanted`` is ours, and what was there before: nova's own, or one set through placement's API."""
        ours = self._is_ours(uuid, now)
        # Those before as well: placement may have one of which nova has never heard that it came there.
        told = [wanted, *([now] if ours else []), *(self._ours if uuid == self._uuid else [])]
        told = list(dict.fromkeys(told))[:_RECENT]
        if ours:
            self._remember(uuid, told, self._before)
            return
        # Where what was written down is lost, the ratio may be ours as well as another's: it is put back to nova's own.
        before = None if self._store.torn or abs(now - CONF.initial_ram_allocation_ratio) < SAME else now
        if before is not None:
            LOG.info('placement\'s MEMORY_MB allocation_ratio of this host was set to %.4g by others: it is put back '
                     'when the plugin is turned off', before)
        self._remember(uuid, told, before)

    def _is_ours(self, uuid: str, ratio: float) -> bool:
        return uuid == self._uuid and any(abs(ratio - ours) < SAME for ours in self._ours)

    def _remember(self, uuid: str | None, ours: list[float], before: float | None) -> None:
        if (uuid, ours, before) == (self._uuid, self._ours, self._before):
            return
        self._uuid, self._ours, self._before = uuid, ours, before
        try:
            self._store.save({'provider': uuid, 'ratios': ours, 'before': before} if uuid else {})
        except OSError as error:
            if not self._warned:
                LOG.warning('%s cannot be written (%s): were nova-compute killed now, placement would keep the '
                            'allocation_ratio it has; give nova-compute a writable [ovc_host] state_path',
                            self._store.path, error)
            self._warned = True
