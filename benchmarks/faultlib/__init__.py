# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Parts of benchmarks/faults: the scene, faults on one real libvirt host, and faults on the one-machine cloud."""
