# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Pure rules: (data, settings, now) -> data. No clock, file, log, thread, random or network."""
