# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The cloud as its API shows it, through openstacksdk."""
from __future__ import annotations


class CloudError(RuntimeError):
    """The cloud cannot be asked; the message names the remedy."""


def compute_hosts() -> list[str]:
    """Names of all hosts that run nova-compute, by clouds.yaml or the ``OS_*`` variables.

    :raises CloudError: no credentials, or the API refuses.
    """
    import openstack
    import openstack.exceptions
    from keystoneauth1.exceptions import ClientException
    try:
        services = openstack.connect().compute.services(binary='nova-compute')
        return sorted({service.host for service in services})
    except (openstack.exceptions.SDKException, openstack.exceptions.ConfigException, ClientException) as error:
        raise CloudError(str(error).partition('\n')[0]) from None
