# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Long-running commands; the interactive one is in ``cli``."""
import warnings

# The oslo libraries load eventlet where it is installed, and it warns of itself; nothing of ours runs on it.
warnings.filterwarnings('ignore', message=r'\s*Eventlet is deprecated')
