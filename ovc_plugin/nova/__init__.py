# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The edge to nova, and the only importer of it: driver, filter, weigher, extra specs, inventory.

``host_state``, ``admission`` and ``ratio`` know nova's objects by their attributes alone and import nothing of it.
"""
