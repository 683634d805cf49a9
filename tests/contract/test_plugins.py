# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Our filters and weighers over nova's own objects and through its own handlers, without a cloud around them."""
from __future__ import annotations

import datetime
import logging
import time

import nova.conf
import pytest
from nova import objects
from nova.scheduler import host_manager
from nova.scheduler import weights as nova_weights

from ovc_plugin import report as reports
from ovc_plugin.model import MIB, Level
from ovc_plugin.nova import ballot, current, filters, host_state, judging, neighbours, weights
from tests.contract.cloud import GB, a_report


@pytest.fixture(autouse=True)
def acting():
    objects.register_all()
    current.conf.register(nova.conf.CONF)
    nova.conf.CONF.set_override('dry_run', False, 'ovc_scheduler')
    current.forget()
    host_state._known.clear()
    neighbours._kept.clear()
    yield
    for name in ('dry_run', 'headroom_weight_multiplier', 'pressure_trend_weight_multiplier',
                 'sharing_affinity_weight_multiplier', 'require_swap_backing'):
        nova.conf.CONF.clear_override(name, 'ovc_scheduler')
    current.forget()


def setting(**options):
    for name, value in options.items():
        nova.conf.CONF.set_override(name, value, 'ovc_scheduler')
    current.forget()


def a_host(name: str, report: bool = True, guests=(), aggregate=None, **changes) -> host_manager.HostState:
    state = host_manager.HostState(name, name, 'cell')
    fields = dict(nova_reserved=512 * MIB) | changes
    state.stats = {'ovc': reports.encode(a_report(name, **fields))} if report else {}
    state.total_usable_ram_mb, state.free_ram_mb, state.num_instances = 8192, 8192 - 512, 0
    state.aggregates = [objects.Aggregate(metadata=aggregate)] if aggregate else []
    state.instances = {guest.uuid: guest for guest in guests}
    return state


def an_instance(number: int, project: str, extra=None, image='i1') -> objects.Instance:
    return objects.Instance(
        uuid=f'00000000-0000-0000-0000-{number:012d}', project_id=project, image_ref=image, instance_type_id=1,
        launched_at=datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60), updated_at=None,
        flavor=objects.Flavor(extra_specs=extra or {}))


def a_request(project: str = 'p1', extra=None, **fields) -> objects.RequestSpec:
    flavor = objects.Flavor(id=1, memory_mb=1024, name='m1', extra_specs=extra or {})
    return objects.RequestSpec(**dict(
        project_id=project, flavor=flavor, numa_topology=None, pci_requests=None, scheduler_hints={},
        image=objects.ImageMeta(id='i1', properties=objects.ImageMetaProps())) | fields)


def passing(chooser, hosts, request) -> list[str]:
    return [host.host for host in chooser().filter_all(hosts, request)]


def best(hosts, request, weigher=weights.OvercommitWeigher) -> str:
    return nova_weights.HostWeightHandler().get_weighed_objects([weigher()], hosts, request)[0].obj.host


def name(project: str) -> str:
    return reports.domain_name(project)


# -- trust domains --------------------------------------------------------------------------------------------------
def test_guests_that_share_do_not_meet_another_trust_domain():
    hosts = [a_host('empty'), a_host('mine', domains=(name('p1'),)), a_host('theirs', domains=(name('p2'),)),
             a_host('mixed', domains=tuple(sorted((name('p1'), name('p2'))))), a_host('silent', report=False)]
    assert passing(filters.SharingDomainFilter, hosts, a_request()) == ['empty', 'mine', 'silent']


@pytest.mark.parametrize('extra', [{'ovc:share': 'no'}, {'ovc:overcommit': 'no'}])
def test_guests_that_do_not_share_go_anywhere(extra):
    hosts = [a_host('theirs', domains=(name('p2'),))]
    assert passing(filters.SharingDomainFilter, hosts, a_request(extra=extra)) == ['theirs']


def test_guests_that_came_since_the_report_are_seen():
    hosts = [a_host('mine', guests=[an_instance(1, 'p1')]), a_host('theirs', guests=[an_instance(2, 'p2')]),
             a_host('apart', guests=[an_instance(3, 'p2', {'ovc:share': 'no'})])]
    assert passing(filters.SharingDomainFilter, hosts, a_request()) == ['mine', 'apart']


@pytest.mark.parametrize('sharing', ['none', 'all'])
def test_where_nothing_is_merged_or_everybody_may_nobody_is_kept_apart(sharing):
    hosts = [a_host('theirs', domains=(name('p2'),), sharing=sharing, guests=[an_instance(1, 'p3')])]
    assert passing(filters.SharingDomainFilter, hosts, a_request()) == ['theirs']


def test_guests_from_which_nothing_may_be_taken_share_nothing_and_go_anywhere():
    huge = objects.InstanceNUMATopology(cells=[objects.InstanceNUMACell(pagesize=2048)])
    hosts = [a_host('theirs', domains=(name('p2'),))]
    assert passing(filters.SharingDomainFilter, hosts, a_request(numa_topology=huge)) == ['theirs']


def test_affinity_goes_by_what_may_be_merged():
    here = dict(claimed=GB, saved=GB, guests=[an_instance(1, 'p1')])
    for sharing, domains, expected in (('domain', ('p1',), True), ('domain', ('p1', 'p2'), False),
                                       ('all', ('p1', 'p2'), True), ('none', ('p1',), False)):
        host = a_host('h1', domains=tuple(sorted(map(name, domains))), sharing=sharing, **here)
        votes = weights.SharingAffinityWeigher().weigh_objects([nova_weights.WeighedHost(host, 0.0)], a_request())
        assert (votes[0] > 0) is expected, (sharing, domains)


def test_where_operator_and_host_do_without_backing_room_is_what_demand_leaves():
    full = a_host('h1', committed=16 * GB, backed=False)
    listed = [nova_weights.WeighedHost(full, 0.0)]
    assert weights.HeadroomWeigher().weigh_objects(listed, a_request()) == [0.0]
    setting(require_swap_backing=False)
    assert weights.HeadroomWeigher().weigh_objects(listed, a_request())[0] > 0.5


def test_a_refusal_names_both_domains_and_the_remedy(caplog):
    caplog.set_level(logging.INFO)
    assert not passing(filters.SharingDomainFilter, [a_host('theirs', domains=(name('p2'),))], a_request())
    assert f'({name("p2")}), the request is of {name("p1")}: give its flavor ovc:share=no' in caplog.text


def test_in_a_dry_run_the_domains_are_told_and_nothing_is_refused(caplog):
    setting(dry_run=True)
    caplog.set_level(logging.INFO)
    assert passing(filters.SharingDomainFilter, [a_host('theirs', domains=(name('p2'),))], a_request()) == ['theirs']
    assert 'host theirs would be refused' in caplog.text


def test_a_rebuild_is_asked_by_neither_filter():
    spec = a_request(scheduler_hints={'_nova_check_type': ['rebuild']})
    for chooser in (filters.SharingDomainFilter, filters.OvercommitFilter):
        assert passing(chooser, [a_host('h1', domains=(name('p2'),), level=Level.HARD)], spec) == ['h1']


ENCRYPTED = {'image_hw_mem_encryption': 'true'}


def a_rebuild_into_encryption(guest, since=0, **host):
    """A guest's new image encrypts its memory; which hosts pass, of one whose guarantees leave no room for that, and to
    which so many guests came ``since`` its report."""
    image = objects.ImageMeta(id='i2', properties=objects.ImageMetaProps(hw_mem_encryption=True))
    spec = a_request(scheduler_hints={'_nova_check_type': ['rebuild']}, instance_uuid=guest.uuid, image=image)
    found = a_host('h1', guests=[guest], **dict(reserved=8 * GB) | host)
    found.num_instances = since
    return passing(filters.OvercommitFilter, [found], spec)


@pytest.mark.parametrize('kept, passes', [
    ({}, False), ({'image_hw_mem_encryption': 'false'}, False), (ENCRYPTED, True)])
def test_a_rebuild_is_judged_by_what_the_host_told_of_the_guest_before(kept, passes):
    guest = an_instance(1, 'p1')
    guest.system_metadata = kept
    assert bool(a_rebuild_into_encryption(guest)) is passes


@pytest.mark.parametrize('guest', [
    objects.Instance(uuid='00000000-0000-0000-0000-000000000001'), an_instance(1, 'p1')], ids=['id', 'database'])
@pytest.mark.parametrize('host, passes', [
    ({'committed': 8 * GB}, True),                  # all guests there are guaranteed all they may touch
    ({'committed': 8 * GB + 511 * MIB}, True),      # too little is not, of another guest
    ({'committed': 8 * GB + 512 * MIB}, False),     # that may be this one's
    ({'committed': 8 * GB, 'since': 1}, False),     # it may be the one that came, and is not in the report
    ({'committed': 7 * GB}, False),                 # cannot be: tells nothing
    ({'committed': 8 * GB, 'taken_at': 1.0}, False)])
def test_a_rebuild_of_a_guest_of_which_nova_tells_too_little_is_judged_by_what_its_host_guarantees(guest, host, passes):
    """As after a restart of nova-scheduler or nova-compute: what is then known of guests has not what their images
    said, and the database has what the new one says already. On a host that is full of encrypted guests none could be
    rebuilt: nova would set it to ERROR."""
    assert bool(a_rebuild_into_encryption(guest, **host)) is passes and 'system_metadata' not in guest


# -- the two ways to judge ------------------------------------------------------------------------------------------
@pytest.mark.parametrize('changes', [
    {}, {'level': Level.HARD}, {'taken_at': 1.0}, {'reserved': 8 * GB}, {'committed': 16 * GB}, {'available': 0},
    {'committed': 16 * GB, 'backed': False}, {'default_reservation': '100%', 'reserved': 7 * GB},
    {'predicted_peak': 20 * GB, 'swap_used': 8 * GB}, {'version': 2}])
def test_the_quick_judgement_and_the_one_with_words_agree(changes):
    settings = current.get()
    for spec in (a_request(), a_request(extra={'ovc:reservation': '100%'})):
        asking = host_state.Asking(spec, settings.shared)
        host = a_host('h1', **changes)
        quick = judging.Quick(asking, settings, time.time())
        first, again = quick.passes(host), quick.passes(host)  # what was found out is then looked up
        assert first is again is judging.judge(host, asking, settings, time.time()).ok
        assert first is not bool(changes)


@pytest.mark.parametrize('aggregate', [
    None, {'availability_zone': 'az1'}, {'headroom_weight_multiplier': '-2', 'pressure_trend_weight_multiplier': '3'}])
@pytest.mark.parametrize('changes', [{}, {'growth': 3e6}, {'domains': (name('p1'),), 'saved': GB, 'claimed': 2 * GB},
                                     {'domains': (name('p2'),), 'saved': GB}, {'sharing': 'all', 'saved': GB}])
def test_votes_counted_while_judging_are_those_that_a_weigher_counts(aggregate, changes):
    host, spec, settings, now = a_host('h1', aggregate=aggregate, **changes), a_request(), current.get(), time.time()
    asking = host_state.Asking(spec, settings.shared)
    asking.counts = ballot.Ballot(ballot.ALL, spec, settings, now, asking)
    quick, votes = judging.Quick(asking, settings, now), []
    for _ in range(3):  # what was found out is then looked up
        assert quick.passes(host)
        votes.append(asking.votes.pop(id(host)))
    assert votes == [ballot.Ballot(ballot.ALL, spec, settings, now).sum(host)] * 3
    assert votes[0] != 0.0


# -- votes ----------------------------------------------------------------------------------------------------------
def test_a_host_that_fills_up_is_put_behind_one_with_less_room():
    hosts = [a_host('filling', growth=50.0 * MIB), a_host('steady', available=6 * GB, committed=GB, growth=0.0)]
    assert best(hosts, a_request()) == 'steady'
    assert best(hosts, a_request(), weights.HeadroomWeigher) == 'filling'
    setting(pressure_trend_weight_multiplier=0.0)
    assert best(hosts, a_request()) == 'filling'


def test_guests_of_one_image_and_project_are_brought_together_where_that_saves():
    alike = dict(domains=(name('p1'),), claimed=2 * GB, committed=2 * GB, reserved=GB, saved=GB, available=7 * GB)
    hosts = [a_host('roomy'), a_host('alike', guests=[an_instance(1, 'p1')], **alike)]
    assert best(hosts, a_request()) == 'alike'
    assert best(hosts, a_request(extra={'ovc:share': 'no'})) == 'roomy'
    assert best(hosts, a_request(image=objects.ImageMeta(id='i2', properties=objects.ImageMetaProps()))) == 'roomy'
    setting(sharing_affinity_weight_multiplier=0.0)
    assert best(hosts, a_request()) == 'roomy'


@pytest.mark.parametrize('multiplier, expected', [
    ('headroom_weight_multiplier', 'full'), ('pressure_trend_weight_multiplier', 'filling'),
    ('sharing_affinity_weight_multiplier', 'lonely')])
def test_aggregates_turn_each_vote_around(multiplier, expected):
    setting(headroom_weight_multiplier=0.0, pressure_trend_weight_multiplier=0.0,
            sharing_affinity_weight_multiplier=0.0)
    alike = dict(domains=(name('p1'),), claimed=GB, saved=GB, guests=[an_instance(1, 'p1')])
    aggregate = {multiplier: '-1.0'}
    hosts = {'full': [a_host('empty', aggregate=aggregate), a_host('full', aggregate=aggregate, committed=9 * GB)],
             'filling': [a_host('calm', aggregate=aggregate, growth=0.0),
                         a_host('filling', aggregate=aggregate, growth=50.0 * MIB)],
             'lonely': [a_host('alike', aggregate=aggregate, **alike), a_host('lonely', aggregate=aggregate)]}
    assert best(hosts[expected], a_request()) == expected


def test_the_one_weigher_says_what_the_three_say_together():
    host = a_host('h1', growth=3.0 * MIB, domains=(name('p1'),), claimed=GB, saved=GB, guests=[an_instance(1, 'p1')])
    listed, spec = [nova_weights.WeighedHost(host, 0.0)], a_request()
    apart = [weigher().weigh_objects(listed, spec)[0] for weigher in (
        weights.HeadroomWeigher, weights.PressureTrendWeigher, weights.SharingAffinityWeigher)]
    assert weights.OvercommitWeigher().weigh_objects(listed, spec)[0] == pytest.approx(sum(apart))
    assert all(share > 0 for share in apart)


def test_a_weigher_without_an_opinion_leaves_nova_s_order():
    setting(dry_run=True)
    hosts = [a_host('first', level=Level.HARD), a_host('second')]
    assert best(hosts, a_request()) == 'first'
    assert nova_weights.HostWeightHandler().get_weighed_objects(
        [weights.OvercommitWeigher()], hosts, a_request())[0].weight == 0.0


def test_one_guest_of_several_placed_meanwhile_changes_what_is_left():
    settings, spec, host = current.get(), a_request(), a_host('h1')
    asking = host_state.Asking(spec, settings.shared)
    before = host_state.left(host, host_state.known(host), asking)
    assert host_state.left(host, host_state.known(host), asking) is before
    host.free_ram_mb, host.num_instances = host.free_ram_mb - 1024, 1
    after = host_state.left(host, host_state.known(host), asking)
    assert after.backed == before.backed - GB - settings.shared.default_overhead
