# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The rules of the ladder that come with the product, in their usual order: the cheapest mechanism first.

Each is credited only with memory that arrives in time, so that what a slow one leaves falls to the next.
"""
from __future__ import annotations

from ovc_plugin.decide import balloon, evacuate, giving, ksm, swap
from ovc_plugin.decide.rule import NOTHING, Part, Rule, Situation


class Sharing:
    """Merge equal pages in the background. It takes minutes: no credit."""

    name = 'sharing'

    def plan(self, situation: Situation) -> Part:
        action = ksm.tune(situation.snapshot, situation.settings, situation.state.scanning)
        return Part(actions=(action,)) if action else NOTHING


class Relief:
    """Give guests that need more than they have what they lack."""

    name = 'relief'

    def plan(self, situation: Situation) -> Part:
        return giving.relieve(situation)


class Balloon:
    """Ask guests to shrink. It takes seconds, and a guest that is willing."""

    name = 'balloon'

    def plan(self, situation: Situation) -> Part:
        return balloon.shrink(situation)


class Swap:
    """Move single guests' memory to swap: at once, and without anybody's consent."""

    name = 'swap'

    def plan(self, situation: Situation) -> Part:
        return swap.reclaim(situation)


class Evacuation:
    """Ask the cloud to move a guest away, when the shortage outlasts a migration. It takes minutes: no credit."""

    name = 'evacuation'

    def plan(self, situation: Situation) -> Part:
        action = evacuate.evacuate(situation.snapshot, situation.level, situation.state.departing, situation.settings,
                                   situation.now)
        return Part(actions=(action,)) if action else NOTHING


class Return:
    """Hand back what is over while the host is clear."""

    name = 'return'

    def plan(self, situation: Situation) -> Part:
        return giving.hand_back(situation)


BUILT_IN: tuple[Rule, ...] = (Sharing(), Relief(), Balloon(), Swap(), Evacuation(), Return())
