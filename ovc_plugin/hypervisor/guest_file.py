# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Reading a small file of a guest through its QEMU guest agent."""
from __future__ import annotations

import base64
import json
import typing

MOST = 4096
_LONGEST = (MOST + 2) // 3 * 4  # characters of base64
Ask = typing.Callable[[str], str]  # one request of the agent's protocol, and its answer


def read(ask: Ask, path: str) -> str:
    """The file's first bytes as text.

    :raises ValueError: the agent's answer cannot be understood, or is no text.
    :raises Exception: whatever ``ask`` raises, as where there is no agent, no such file, or it may not read files.
    """
    handle = _call(ask, 'guest-file-open', path=path, mode='r')
    try:
        found = _call(ask, 'guest-file-read', handle=handle, count=MOST)
        if len(found['buf-b64']) > _LONGEST:  # the agent is the tenant's, and libvirt takes 10 MB of it
            raise ValueError(f'guest-file-read answered more than the {MOST} bytes that it was asked for')
        return base64.b64decode(found['buf-b64'], validate=True).decode('ascii')
    except (KeyError, TypeError) as error:
        raise ValueError(f'guest-file-read answered without {error}') from None
    finally:
        _call(ask, 'guest-file-close', handle=handle)


def _call(ask: Ask, name: str, **arguments: typing.Any) -> typing.Any:
    try:
        return json.loads(ask(json.dumps({'execute': name, 'arguments': arguments})))['return']
    except (KeyError, TypeError) as error:
        raise ValueError(f'{name} was not answered: {error}') from None
