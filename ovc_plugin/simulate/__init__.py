# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Modelled hosts: guests with manners, a kernel that swaps and merges, and time; they run the product's own rules.

A model, not a measurement: what it takes for granted stands in ``guest`` and ``kernel`` as constants with their
reasons. It is for comparing policies on equal worlds, and for finding worlds in which a promise breaks. Same seed,
same world, same numbers: nothing here reads a clock.
"""
