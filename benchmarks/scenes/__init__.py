# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Scenes with real guests: ``table`` says what happens in each, ``stage`` lets it happen, ``look`` measures it from
outside, ``verdict`` judges it, ``picture`` draws it, ``mom_host`` runs MOM's policy on a real host."""
