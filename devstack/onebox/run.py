# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Started by ./onebox with the environment's Python; this directory is thereby on its path."""
import sys
import warnings

# Libraries of the cloud warn of what only their makers can change; the user shall see the cloud's own words.
# (Not by a filter: one of them resets those.)
warnings.showwarning = lambda *_arguments, **_more: None

try:
    from onebox_cloud.cli import main
except KeyboardInterrupt:  # loading takes half a second
    sys.exit(130)

sys.exit(main(sys.argv[1:]))
