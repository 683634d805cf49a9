# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Validators of the ``ovc:`` extra specs: nova-api answers a typo in name or value with 400.

From microversion 2.86 on (nova/api/openstack/compute/flavors_extraspecs.py). Asked by an older one, as by
python-openstackclient unless it is told, it takes what it gets; see :func:`ovc_plugin.placing.unread` for the names.
"""
from __future__ import annotations

from nova.api.validation.extra_specs import base

YES_NO = '(?i:yes|no|true|false|on|off|1|0)'


def _text(name: str, description: str, pattern: str) -> base.ExtraSpecValidator:
    return base.ExtraSpecValidator(name=f'ovc:{name}', description=description,
                                   value={'type': str, 'description': description, 'pattern': pattern})


def register() -> list[base.ExtraSpecValidator]:
    """All extra specs of the namespace; called by nova through the entry point."""
    return [
        _text('reservation',
              'Memory the guest is guaranteed: a percentage of the flavor\'s memory ("50%") or a number of MB ("512").',
              r'(100(\.0+)?|\d{1,2}(\.\d+)?)\s*%|\d{1,9}\s*(?i:MB|MiB|M)?'),
        _text('weight',
              'The guest\'s share when memory is short, against others\' 1: a number from 0.01 to 100.',
              r'(?=.*[1-9])(100(\.0{1,2})?|\d{1,2}(\.\d{1,2})?)'),
        _text('overcommit', 'No: the guest counts at its full size and is never ballooned, merged or swapped.',
              YES_NO),
        _text('share', 'No: the guest\'s pages are never merged with others\'.', YES_NO),
    ]
