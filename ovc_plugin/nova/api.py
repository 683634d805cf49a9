# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""nova's REST API through openstacksdk, with the service user of ``[ovc_nova]``: asks for a guest to be moved.

Needs keystoneauth1 and openstacksdk, and nothing of nova itself.
"""
from __future__ import annotations

import contextlib
import typing

from keystoneauth1 import exceptions as ksa
from keystoneauth1 import loading
from oslo_config import cfg

from ovc_plugin.model import Departure

GROUP = 'ovc_nova'
# From this on nova chooses by itself whether disks are copied along (2.25), and gives reasons (2.84) where it is newer.
MICROVERSION = '2.30'
_TIMEOUT = 30
_TITLE = ('How the host controller asks nova to move guests (migrate in [ovc_host]): a service user that may migrate '
          'guests of all projects, which is the role admin by nova\'s own policy')
_KEPT_AWAY = ('version', 'min_version', 'max_version', 'service_type', 'service_name')


class NovaError(RuntimeError):
    """nova was not asked, or said no; the message names what to mend."""


class NovaTimeoutError(NovaError, TimeoutError):
    """nova did not answer in time: what it was asked it may do all the same."""


def _adapter_options() -> list[cfg.Opt]:
    options = [o for o in loading.get_adapter_conf_options(include_deprecated=False) if o.dest not in _KEPT_AWAY]
    cfg.set_defaults(options, valid_interfaces=['internal', 'public'])
    return options


def _session_options() -> list[cfg.Opt]:
    options = loading.get_session_conf_options()
    cfg.set_defaults(options, timeout=_TIMEOUT)
    return options


def list_opts(plugin: str = 'password') -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """What [ovc_nova] may hold with this plugin of keystoneauth; others add their own.

    :raises keystoneauth1.exceptions.NoMatchingPlugin: there is none of this name.
    """
    options = [*loading.get_auth_common_conf_options(), *loading.get_auth_plugin_conf_options(plugin),
               *_session_options(), *_adapter_options()]
    unique = {option.dest: option for option in options}
    return [(cfg.OptGroup(GROUP, help=_TITLE), [unique[name] for name in sorted(unique)])]


def options_of(conf: cfg.ConfigOpts) -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """What [ovc_nova] may hold with the plugin that it names; not known where there is no such plugin."""
    try:
        register(conf)
        # With auth_section that one names the plugin.
        return list_opts(getattr(conf[GROUP], 'auth_type', None) or 'password')
    except (cfg.Error, ksa.NoMatchingPlugin):
        return []


def register(conf: cfg.ConfigOpts) -> None:
    """Make the options known to ``conf``; doing it twice does no harm."""
    loading.register_auth_conf_options(conf, GROUP)
    conf.register_opts([*_session_options(), *_adapter_options()], group=GROUP)


def nova_or_why(conf: cfg.ConfigOpts, host: str) -> tuple[Nova | None, str]:
    """Whom to ask, or why there is nobody: a section that cannot be used costs nothing but migrations."""
    try:
        return Nova(conf, host), ''
    except cfg.Error as error:
        return None, f'[{GROUP}] cannot be read: {error}'
    except (NovaError, ksa.ClientException, ValueError) as error:
        return None, str(error)


class Nova:
    """Moves guests by asking nova for it. ``host`` is nova's name of this host.

    The first question logs in, so that an unreachable keystone does not keep nova-compute from starting.
    """

    def __init__(self, conf: cfg.ConfigOpts, host: str) -> None:
        """:raises NovaError: the section cannot be used; the message names the option."""
        register(conf)
        self._conf, self._host = conf, host
        try:
            self._auth = loading.load_auth_from_conf_options(conf, GROUP)
        except ksa.MissingRequiredOptions as error:
            names = ', '.join(option.dest for option in error.options)
            raise NovaError(f'[{GROUP}] lacks {names}') from None
        except ksa.NoMatchingPlugin as error:
            raise NovaError(f'[{GROUP}] auth_type = {error.name} is no plugin of keystoneauth: set password, or what '
                            'nova has in [placement]') from None
        if self._auth is None:
            raise NovaError(f'[{GROUP}] auth_type is not set: give the section credentials as [placement] has them')
        self._compute: typing.Any = None

    def ask(self, guest: str) -> None:
        """Ask for a live migration to wherever nova's scheduler finds room, never forced; returns at once.

        :raises NovaTimeoutError: no answer in time: it may have been heard.
        :raises NovaError: nova or keystone says no, or cannot be reached.
        """
        with self._told('ask for a live migration'):
            self._api().live_migrate_server(guest, host=None, force=False, block_migration='auto')

    def outcome(self, guest: str) -> Departure:
        """Under way while nova's task state says so; then the guest's host tells.

        :raises NovaError: nova or keystone says no, or cannot be reached.
        """
        from openstack import exceptions
        with self._told('look after a live migration'):
            try:
                server = self._api().get_server(guest)
            except exceptions.NotFoundException:
                return Departure(guest=guest, ended=True)  # deleted meanwhile: gone all the same
            if server.task_state is not None:
                return Departure(guest=guest)
            if server.compute_host is None:
                raise NovaError(f'nova does not tell where a guest is: the user of [{GROUP}] needs the role admin')
            if server.compute_host != self._host:
                return Departure(guest=guest, ended=True)
            return Departure(guest=guest, ended=True, error=self._why(guest))

    def _api(self) -> typing.Any:
        if self._compute is None:
            import openstack.connection
            from openstack.config import cloud_region
            options = self._conf[GROUP]
            session = loading.load_session_from_conf_options(self._conf, GROUP, auth=self._auth)
            self._compute = openstack.connection.Connection(config=cloud_region.from_session(
                session, region_name=options.region_name, app_name='ovc-plugin', compute_api_version='2',
                compute_default_microversion=MICROVERSION, compute_interface=options.valid_interfaces,
                compute_endpoint_override=options.endpoint_override)).compute
        return self._compute

    def _why(self, guest: str) -> str:
        """Nova's words on the last live migration of a guest."""
        from openstack import exceptions
        fallback = 'nova has ended the migration and the guest is still here: look at nova-conductor\'s log'
        try:
            actions = [a for a in self._api().server_actions(guest) if a.action == 'live-migration']
            if not actions:
                return fallback
            last = max(actions, key=lambda action: str(action.start_time))
            events = self._api().get_server_action(last.request_id, guest).events or []
        except exceptions.SDKException:
            return fallback
        failed = [e for e in events if e.get('result') == 'Error']
        said = [_last_line(e.get('details')) or _last_line(e.get('traceback')) for e in failed]
        return next(filter(None, said), fallback)

    @contextlib.contextmanager
    def _told(self, what: str) -> typing.Iterator[None]:
        """Turn what goes wrong into a sentence that names the option to mend."""
        from openstack import exceptions
        try:
            yield
        except (ksa.Unauthorized, ksa.MissingAuthPlugin) as error:
            raise NovaError(f'keystone refuses the user of [{GROUP}] ({error}): correct username, password, '
                            'project_name and the domains there') from None
        except ksa.SSLError as error:
            raise NovaError(f'the certificate of keystone or nova is not trusted ({error}): set cafile in '
                            f'[{GROUP}]') from None
        except (ksa.EndpointNotFound, exceptions.ServiceDisabledException) as error:
            raise NovaError(f'keystone\'s catalogue has no such compute service ({error}): correct region_name or '
                            f'valid_interfaces in [{GROUP}]') from None
        except ksa.ConnectTimeout as error:  # keystoneauth's name for any wait that was too long
            raise NovaTimeoutError(f'keystone or nova cannot be reached in time ({error}): look whether they are '
                                   f'overloaded, or correct auth_url or endpoint_override in [{GROUP}]') from None
        except (ksa.ConnectionError, ksa.DiscoveryFailure) as error:
            raise NovaError(f'keystone or nova cannot be reached ({error}): correct auth_url or endpoint_override in '
                            f'[{GROUP}]') from None
        except exceptions.ForbiddenException:
            raise NovaError(f'the user of [{GROUP}] may not {what}: give it the role admin, or allow it in nova\'s '
                            'policy (os_compute_api:os-migrate-server:migrate_live)') from None
        except (exceptions.SDKException, ksa.ClientException) as error:
            raise NovaError(f'could not {what}: {getattr(error, "details", None) or error}') from None


def _last_line(text: str | None) -> str:
    lines = (text or '').strip().splitlines()
    return lines[-1].strip() if lines else ''
