# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Started by ./onebox with the environment's Python; this directory is thereby on its path."""
import sys

from onebox_cloud.cli import main

sys.exit(main(sys.argv[1:]))
