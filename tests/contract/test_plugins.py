# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Our filters and weighers over nova's own objects and through its own handlers, without a cloud around them."""
from __future__ import annotations

import datetime
import logging
import time

import hypothesis
import nova.conf
import pytest
from hypothesis import strategies as st
from nova import objects
from nova.scheduler import host_manager
from nova.scheduler import weights as nova_weights

from ovc_plugin import report as reports
from ovc_plugin.model import MIB, Level
from ovc_plugin.nova import adding, ballot, current, filters, host_state, judging, kept, neighbours, weights
from tests.contract.cloud import GB, a_report


@pytest.fixture(autouse=True)
def acting():
    objects.register_all()
    current.conf.register(nova.conf.CONF)
    nova.conf.CONF.set_override('dry_run', False, 'ovc_scheduler')
    current.forget()
    kept.HOSTS.clear()
    kept._tables.clear()
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
        flavor=objects.Flavor(name='m1', memory_mb=1024, extra_specs=extra or {}))


def a_request(project: str = 'p1', extra=None, **fields) -> objects.RequestSpec:
    flavor = objects.Flavor(id=1, memory_mb=1024, name='m1', extra_specs=extra or {})
    return objects.RequestSpec(**dict(
        project_id=project, flavor=flavor, numa_topology=None, pci_requests=None, scheduler_hints={},
        image=objects.ImageMeta(id='i1', properties=objects.ImageMetaProps())) | fields)


def passing(chooser, hosts, request) -> list[str]:
    return [host.host for host in chooser().filter_all(hosts, request)]


def sifted(asking, settings, hosts) -> judging.Quick:
    quick = judging.Quick(asking, settings, time.time())
    quick.sift(hosts)
    return quick


def best_sifted(hosts, request) -> str:
    """As nova does it: the filter first, which leaves its votes for the weigher."""
    return best(list(filters.OvercommitFilter().filter_all(hosts, request)), request)


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
        votes = weights.SharingAffinityWeigher().votes([nova_weights.WeighedHost(host, 0.0)], a_request())
        assert (votes[0] > 0) is expected, (sharing, domains)


def test_where_operator_and_host_do_without_backing_room_is_what_demand_leaves():
    full = a_host('h1', committed=16 * GB, backed=False)
    listed = [nova_weights.WeighedHost(full, 0.0)]
    assert weights.HeadroomWeigher().votes(listed, a_request()) == [0.0]
    setting(require_swap_backing=False)
    assert weights.HeadroomWeigher().votes(listed, a_request())[0] > 0.5


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
        found = [bool(sifted(asking, settings, [host]).passed) for _ in range(2)]  # what was found out is looked up
        assert found == [judging.judge(host, asking, settings, time.time()).ok] * 2 == [not changes] * 2


@pytest.mark.parametrize('aggregate', [
    None, {'availability_zone': 'az1'}, {'headroom_weight_multiplier': '-2', 'pressure_trend_weight_multiplier': '3'}])
@pytest.mark.parametrize('changes', [{}, {'growth': 3e6}, {'domains': (name('p1'),), 'saved': GB, 'claimed': 2 * GB},
                                     {'domains': (name('p2'),), 'saved': GB}, {'sharing': 'all', 'saved': GB}])
def test_votes_counted_while_judging_are_those_that_a_weigher_counts(aggregate, changes):
    host, spec, settings, now = a_host('h1', aggregate=aggregate, **changes), a_request(), current.get(), time.time()
    asking = host_state.Asking(spec, settings.shared)
    asking.counts = ballot.Ballot(ballot.ALL, spec, settings, now, asking)
    votes = [vote for _ in range(3) for vote in sifted(asking, settings, [host]).votes]
    assert votes == [ballot.Ballot(ballot.ALL, spec, settings, now).sum(host)] * 3
    assert votes[0] != 0.0


AMOUNTS = st.integers(0, 16).map(lambda half: half * GB // 2)
FIELDS = st.fixed_dictionaries({}, optional=dict(
    reserved=AMOUNTS, committed=AMOUNTS, available=AMOUNTS, claimed=AMOUNTS, saved=AMOUNTS, predicted_peak=AMOUNTS,
    swap_used=AMOUNTS, evaporation=AMOUNTS, reclaimable=AMOUNTS, level=st.sampled_from(Level),
    growth=st.sampled_from([-1e6, 3e6]), stall=st.sampled_from([0.0, 0.3]), backed=st.booleans(),
    default_reservation=st.sampled_from(['0%', '100%']), sharing=st.sampled_from(['domain', 'none', 'all']),
    domains=st.sampled_from([(), (name('p1'),), (name('p2'),), tuple(sorted((name('p1'), name('p2'))))])))
METADATA = st.sampled_from([None, {'a': 'b'}, {'headroom_weight_multiplier': '-2'}, {'ovc:reservation': '75%'}])
# What becomes of one of three hosts before the next request, and who asks.
STEPS = st.lists(st.tuples(
    st.integers(0, 2), st.sampled_from(['report', 'guest', 'told', 'aggregate', 'stored', 'nothing']), FIELDS, METADATA,
    st.sampled_from([0.0, 1.0, 7.0, 100.0]), st.sampled_from([None, '0%', '50%', '100%']),
    st.sampled_from([1024, 4096]), st.sampled_from(['p1', 'p2'])), min_size=1, max_size=12)


@hypothesis.settings(max_examples=300, deadline=None,
                     suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(STEPS)
def test_whatever_became_of_hosts_the_quick_judgement_and_its_votes_are_those_of_one_that_has_kept_nothing(steps):
    now, hosts, settings = time.time(), [a_host(f'h{n}') for n in range(3)], current.get()
    for number, (which, what, fields, metadata, after, reservation, size, project) in enumerate(steps):
        now += after
        host = hosts[which]
        if what == 'report':
            hosts[which] = host = a_host(host.host, taken_at=now - 3, **fields)
        elif what == 'guest':
            host.free_ram_mb, host.num_instances = host.free_ram_mb - 512, host.num_instances + 1
        elif what == 'told':
            host.instances = {**host.instances, str(number): an_instance(number, project, {'ovc:reservation': '100%'})}
        elif what == 'aggregate':
            host.aggregates = [objects.Aggregate(metadata=metadata)] if metadata else []
        elif what == 'stored':
            host.updated = datetime.datetime.fromtimestamp(int(now), datetime.UTC)
        extra = {'ovc:reservation': reservation} if reservation else {}
        flavor = objects.Flavor(id=1, memory_mb=size, name='m1', extra_specs=extra)
        spec = a_request(project, flavor=flavor)
        asking = host_state.Asking(spec, settings.shared)
        asking.counts = ballot.Ballot(ballot.ALL, spec, settings, now, asking)
        quick = judging.Quick(asking, settings, now)
        quick.sift(hosts)
        before, kept.HOSTS, kept._tables = (kept.HOSTS, kept._tables), {}, {}
        try:
            assert quick.passed == [h for h in hosts if judging.judge(h, asking, settings, now).ok]
            counted = ballot.Ballot(ballot.ALL, spec, settings, now)
            assert quick.votes == pytest.approx([counted.sum(h) for h in quick.passed])
        finally:
            kept.HOSTS, kept._tables = before


CHANGE = {'reserved': 8 * GB}  # of a host that cannot take the request


def test_a_host_is_judged_anew_by_every_kind_of_request_once_its_report_is_new():
    """What requests of the same kind have found is kept; those of another kind must not find it either."""
    specs = [a_request(), a_request(extra={'ovc:reservation': '100%'}), a_request()]
    for host, expected in ((a_host('h1'), ['h1']), (a_host('h1', **CHANGE), []), (a_host('h1'), ['h1'])):
        assert [passing(filters.OvercommitFilter, [host], spec) for spec in specs] == [expected] * 3


def test_a_guest_on_its_way_counts_for_every_kind_of_request():
    host = a_host('h1', reserved=6 * GB, committed=6 * GB)
    specs = [a_request(extra={'ovc:reservation': f'{share}%'}) for share in (0, 50)]
    assert all(passing(filters.OvercommitFilter, [host], spec) for spec in specs)
    host.free_ram_mb, host.num_instances = host.free_ram_mb - 2048, 1
    assert [bool(passing(filters.OvercommitFilter, [host], spec)) for spec in specs] == [True, False]


def test_a_guest_of_which_nova_is_told_later_counts_from_then_on():
    host, spec = a_host('h1', reserved=6 * GB, committed=6 * GB), a_request(extra={'ovc:reservation': '0%'})
    host.free_ram_mb, host.num_instances = host.free_ram_mb - 1024, 1
    assert passing(filters.OvercommitFilter, [host], spec) == ['h1']
    host.instances = {'1': an_instance(1, 'p1', {'ovc:reservation': '100%'})}
    assert passing(filters.OvercommitFilter, [host], spec) == ['h1']  # there is room for its guarantee
    host.instances = {'1': an_instance(1, 'p1', {'ovc:reservation': '100%'})}
    host.free_ram_mb -= 1024
    assert passing(filters.OvercommitFilter, [host], spec) == ['h1']  # of the other one nothing is known
    host.instances = {**host.instances, '2': an_instance(2, 'p1', {'ovc:reservation': '100%'})}
    assert passing(filters.OvercommitFilter, [host], spec) == []


@pytest.mark.parametrize('slow', ['known', 'seen', 'what_is_left'])
def test_a_request_that_is_slow_leaves_nothing_of_a_report_that_another_has_seen_renewed(slow, monkeypatch):
    """nova-scheduler serves requests in threads: one is held up while it judges by the report of before."""
    settings, spec, host = current.get(), a_request(), a_host('h1', taken_at=time.time() - 20)
    for module in (host_state, kept):
        if hasattr(module, slow):
            ordinary = getattr(module, slow)

            def held_up(*arguments, module=module, ordinary=ordinary):
                found = ordinary(*arguments)
                monkeypatch.setattr(module, slow, ordinary)
                assert not sifted(host_state.Asking(spec, settings.shared), settings, [a_host('h1', **CHANGE)]).passed
                return found
            monkeypatch.setattr(module, slow, held_up)
    assert sifted(host_state.Asking(spec, settings.shared), settings, [host]).passed
    for _ in range(2):
        assert not sifted(host_state.Asking(spec, settings.shared), settings, [a_host('h1', **CHANGE)]).passed


def test_a_request_among_more_kinds_than_are_kept_is_judged_all_the_same(monkeypatch):
    settings, quick = current.get(), judging.Quick(host_state.Asking(a_request(), current.get().shared), current.get(),
                                                   time.time())
    for size in range(kept._MOST_TABLES):
        kept.table((size,), (1.0, 1.0), time.time())
    sifted(host_state.Asking(a_request('p2'), settings.shared), settings, [a_host(f'h{n}') for n in range(9)])
    quick.sift([a_host(f'h{n}') for n in range(10)])
    assert len(quick.passed) == 10 and not quick.wrong


def test_a_record_that_nova_stored_anew_within_the_same_second_is_read(monkeypatch):
    """nova's times have no fractions: two records of one second look alike."""
    stored, clock = datetime.datetime.now(datetime.UTC).replace(microsecond=0), [time.time()]
    monkeypatch.setattr(filters.time, 'time', lambda: clock[0])

    def asked(after: float, **changes) -> list[str]:
        clock[0] += after
        host = a_host('h1', taken_at=began, **changes)
        host.updated = stored
        return passing(filters.OvercommitFilter, [host], a_request())

    began = clock[0]
    assert asked(0) == asked(0.2) == asked(0.2) == asked(0.2) == ['h1']
    assert asked(0.01, **CHANGE) == []


def test_a_record_that_is_final_need_not_be_read_again(monkeypatch):
    stored, clock = datetime.datetime.now(datetime.UTC).replace(microsecond=0), [time.time()]
    monkeypatch.setattr(filters.time, 'time', lambda: clock[0])
    host = a_host('h1')
    host.updated = stored
    for _ in range(3):
        assert passing(filters.OvercommitFilter, [host], a_request()) == ['h1']
        clock[0] += 16
    host.stats = None  # nobody looks
    assert passing(filters.OvercommitFilter, [host], a_request()) == ['h1']
    clock[0] += 600
    assert passing(filters.OvercommitFilter, [host], a_request()) == []  # however final, it grows old
    host = a_host('h1', taken_at=clock[0], **CHANGE)
    host.updated = stored + datetime.timedelta(seconds=600)
    assert passing(filters.OvercommitFilter, [host], a_request()) == []


def test_metadata_of_an_aggregate_counts_from_the_next_request_on():
    setting(headroom_weight_multiplier=1.0, pressure_trend_weight_multiplier=0.0)
    hosts = [a_host('empty', aggregate={'a': 'b'}), a_host('full', aggregate={'a': 'b'}, committed=9 * GB)]
    assert [best(hosts, a_request()) for _ in range(2)] == ['empty'] * 2
    for host in hosts:
        host.aggregates[0].metadata = {'headroom_weight_multiplier': '-1.0'}
    assert best_sifted(hosts, a_request()) == 'full'
    assert passing(filters.OvercommitFilter, [a_host('h1', default_reservation='25%')], a_request()) == ['h1']
    assert not passing(filters.OvercommitFilter,
                       [a_host('h1', default_reservation='25%', aggregate={'ovc:reservation': '100%'})], a_request())


def test_votes_are_found_again_whatever_other_filters_leave_of_the_hosts():
    hosts, spec = [a_host(name, growth=growth) for name, growth in (('a', 0.0), ('b', 3e6), ('c', 9e6))], a_request()
    weights.OvercommitWeigher()
    assert passing(filters.OvercommitFilter, hosts, spec) == ['a', 'b', 'c']
    every = ballot.left(spec, hosts)
    assert None not in every and len(set(every)) == 3
    assert ballot.left(spec, hosts[::-1]) == every[::-1] and ballot.left(spec, hosts[1:2]) == every[1:2]
    assert ballot.left(spec, [a_host('a')]) == [None] and ballot.left(a_request(), hosts) == [None] * 3


@pytest.mark.parametrize('strength', ['inf', '-inf', 'nan', '-1e300', 'strong'])
def test_no_strength_of_a_vote_refuses_a_host(strength):
    weights.OvercommitWeigher()
    host = a_host('h1', aggregate={'headroom_weight_multiplier': strength})
    assert [passing(filters.OvercommitFilter, [host], a_request()) for _ in range(2)] == [['h1']] * 2
    setting(headroom_weight_multiplier=-1e300)
    assert [passing(filters.OvercommitFilter, [a_host('h2')], a_request()) for _ in range(2)] == [['h2']] * 2


# -- how the votes get into nova's sums -------------------------------------------------------------------------------
@pytest.mark.parametrize('weigher', [
    weights.OvercommitWeigher, weights.HeadroomWeigher, weights.PressureTrendWeigher, weights.SharingAffinityWeigher])
@pytest.mark.parametrize('multiplier', [1.0, -2.5])
def test_votes_that_are_added_rank_hosts_as_those_do_that_nova_s_handler_is_told(weigher, multiplier, monkeypatch,
                                                                                 caplog):
    """The first is what happens, the second what happens while nova's debug log is on, which tells them."""
    setting(headroom_weight_multiplier=multiplier, pressure_trend_weight_multiplier=0.3)
    hosts = [a_host(f'h{n}', committed=n * GB, growth=n * 1e6, domains=(name('p1'),), saved=GB, claimed=(9 - n) * GB,
                    guests=[an_instance(n, 'p1')]) for n in range(1, 6)]

    def ranked() -> list[tuple[str, float]]:
        spec = a_request()
        kept_hosts = list(filters.OvercommitFilter().filter_all(hosts, spec))
        return [(w.obj.host, w.weight) for w in nova_weights.HostWeightHandler().get_weighed_objects(
            [Ram(), weigher(), Ram()], kept_hosts, spec)]

    caplog.set_level(logging.INFO, 'nova.weights')
    added = ranked()
    assert 'raw weights' not in caplog.text
    caplog.set_level(logging.DEBUG, 'nova.weights')
    told = ranked()
    assert f'{weigher.__name__}: raw weights' in caplog.text
    assert [host for host, _ in added] == [host for host, _ in told]
    assert [weight for _, weight in added] == pytest.approx([weight for _, weight in told])


def test_a_weigher_of_somebody_s_own_keeps_its_strength(caplog):
    class Weak(weights.OvercommitWeigher):
        def weight_multiplier(self, host_state):
            return 0.25

    caplog.set_level(logging.INFO, 'nova.weights')
    hosts, spec = [a_host('h1'), a_host('h2')], a_request()
    whole, weak = (nova_weights.HostWeightHandler().get_weighed_objects([one], hosts, spec)[0].weight
                   for one in (weights.OvercommitWeigher(), Weak()))
    assert weak == pytest.approx(whole / 4) and whole > 0


class Ram(nova_weights.BaseHostWeigher):
    def _weigh_object(self, host_state, weight_properties):
        return int(host_state.host[1:]) % 3


def test_a_handler_that_would_not_have_the_sum_is_told_the_votes(monkeypatch):
    """Nova documents that votes are returned; that they may be added as well is asked of it, not taken for granted."""
    class Overwriting(nova_weights.HostWeightHandler):
        def get_weighed_objects(self, weighers, obj_list, weighing_properties):
            found = [nova_weights.WeighedHost(obj, 0.0) for obj in obj_list]
            for weigher in weighers:
                told = weigher.weigh_objects(found, weighing_properties) or [0.0] * len(found)
                for weighed, weight in zip(found, told, strict=True):
                    weighed.weight = weight
            return found

    monkeypatch.setattr(nova_weights, 'HostWeightHandler', Overwriting)
    adding.may_add.cache_clear()
    try:
        assert not adding.may_add()
        weighed = [nova_weights.WeighedHost(a_host('h1'), 0.0)]
        assert weights.OvercommitWeigher().weigh_objects(weighed, a_request()) != [] and weighed[0].weight == 0.0
    finally:
        adding.may_add.cache_clear()


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
    apart = [weigher().votes(listed, spec)[0] for weigher in (
        weights.HeadroomWeigher, weights.PressureTrendWeigher, weights.SharingAffinityWeigher)]
    assert weights.OvercommitWeigher().votes(listed, spec)[0] == pytest.approx(sum(apart))
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
    assert host_state.left(host, host_state.known(host), asking) == before
    host.free_ram_mb, host.num_instances = host.free_ram_mb - 1024, 1
    after = host_state.left(host, host_state.known(host), asking)
    assert after.backed == before.backed - GB - settings.shared.default_overhead
