# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
