# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What holds for all tests."""
import hypothesis

# How long an example takes is the machine's business: on a busy one, a slow example is no failure.
hypothesis.settings.register_profile('any machine', deadline=None)
hypothesis.settings.load_profile('any machine')
