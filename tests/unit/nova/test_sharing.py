# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Which guests start with pages that are never merged."""
import types

import pytest

from ovc_plugin.nova import attributes
from ovc_plugin.settings import HostSettings

sharing = pytest.importorskip('ovc_plugin.nova.sharing', reason='needs nova')

NOW = 1_000_000.0
OPTIONS = HostSettings(dry_run=False)
PLAIN = '<domain><memory unit="KiB">524288</memory>{}</domain>'


class Flavor(types.SimpleNamespace):
    """As nova's: a field that was not loaded is not "in" it."""

    def __contains__(self, name):
        return hasattr(self, name)


def an_instance(uuid='u1', project='a', image=None, **specs):
    return Flavor(uuid=uuid, project_id=project, flavor=Flavor(name='small', extra_specs=specs),
                  system_metadata={f'image_{name}': text for name, text in (image or {}).items()})


def here(uuid, domain, can_share=True, running=True):
    return {'uuid': uuid, 'trust_domain': domain, 'can_share': can_share, 'running': running}


def why(guests=(), instance=None, inside='', settings=OPTIONS, sharers=None, now=NOW):
    sharers = sharers or sharing.Sharers()
    return sharers.why_not(instance or an_instance(), PLAIN.format(inside), guests, settings, now)


@pytest.mark.parametrize('specs, unshared', [
    ({}, False), ({'ovc:share': 'yes'}, False), ({'ovc:share': 'no'}, True), ({'ovc:share': 'nay'}, True),
    ({'ovc:overcommit': 'no'}, True), ({'ovc:overcommit': 'yes'}, False)])
def test_a_flavor_says_whether_its_guests_merge(specs, unshared):
    assert bool(sharing.declined(an_instance(**specs))) == unshared
    assert sharing.declined(Flavor(flavor=Flavor(name='no specs loaded'))) is None


@pytest.mark.parametrize('image, specs, why', [
    ({'ovc_share': 'no'}, {}, 'its image says no to ovc:share'), ({'ovc:share': 'no'}, {}, 'its image says no'),
    ({'ovc_overcommit': 'false'}, {}, 'its image says no to ovc:overcommit'), ({'ovc_share': 'yes'}, {}, None),
    ({'ovc_share': 'perhaps'}, {}, 'its image says no to ovc:share'),
    ({'ovc_share': 'no'}, {'ovc:share': 'yes'}, None), ({'os_type': 'linux'}, {}, None),
    ({'ovc_share': 'yes'}, {'ovc:share': 'no'}, 'its flavor says no')])
def test_an_image_says_so_where_the_flavor_says_nothing(image, specs, why):
    said = sharing.declined(an_instance(image=image, **specs))
    assert said is why if why is None else why in said


def test_the_first_project_on_a_host_may_share_and_the_second_stays_out_of_it():
    assert why() is None
    assert why([here('x', 'a')]) is None
    assert 'another project' in why([here('x', 'b')])


def test_guests_that_cannot_merge_or_do_not_run_keep_nobody_out():
    assert why([here('x', 'b', can_share=False), here('y', 'b', running=False)]) is None


def test_a_guest_that_is_started_again_does_not_keep_itself_out():
    assert why([here('u1', 'b')]) is None


def test_two_projects_that_start_at_once_do_not_both_share():
    sharers = sharing.Sharers()
    assert why(sharers=sharers) is None
    second = an_instance('u2', 'b')
    assert 'another project' in why(sharers=sharers, instance=second, now=NOW + 1)
    # the first never came up
    assert why(sharers=sharers, instance=second, now=NOW + 400) is None


def test_guests_from_which_nothing_may_be_taken_do_not_merge():
    assert 'locked memory' in why(inside='<memoryBacking><locked/></memoryBacking>')
    assert 'hugepages' in why(inside='<memoryBacking><hugepages/></memoryBacking>')
    assert why(inside='<memoryBacking><hugepages/><nosharepages/></memoryBacking>') is None


def test_an_operator_who_wants_it_across_projects_gets_it_and_a_dry_run_changes_nothing():
    others = [here('x', 'b')]
    assert why(others, settings=HostSettings(dry_run=False, ksm='all-tenants-despite-side-channels')) is None
    assert why(others, settings=HostSettings(dry_run=True)) is None


@pytest.mark.parametrize('text', ['no', ' no\n', 'n\x00o', 'no\x1b[2J', 'yes\x01', '\ud800', '\ufffe', 'no\x9b'])
def test_whatever_a_tenant_writes_on_an_image_the_definition_of_its_guest_is_xml_and_says_the_same(text):
    """Nova makes the text where no hook of ours could catch it: the guest would fail, on one host after the other."""
    element = pytest.importorskip('nova.virt.libvirt.config', reason='needs nova')
    config = element.LibvirtConfigGuest()
    config.memory, config.virt_type, config.uuid, config.name = 524288, 'kvm', 'u1', 'g1'
    sharing.tell(config, sharing.said(an_instance(image={'ovc:overcommit': text})), element.LibvirtConfigObject)
    kept = sharing.definition.read(config.to_xml()).extra_specs['ovc:overcommit']
    assert kept.isprintable() and attributes.says_no(kept) == attributes.says_no(text)


def test_a_word_of_an_image_takes_no_more_room_in_a_definition_than_a_word_does():
    assert len(sharing.said(an_instance(image={'ovc:overcommit': 'no' * 5000}))['overcommit']) <= 100
