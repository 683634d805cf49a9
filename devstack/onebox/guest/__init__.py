# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The test guest: `build` makes it, `client` talks with it, `direct` starts it without nova."""
