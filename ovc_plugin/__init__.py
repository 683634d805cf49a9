# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Safe memory overcommit for KVM clouds: sense a host, decide a plan, act on it, report; placement uses the reports.

The map, one line per part (who may import whom is checked by ``.importlinter``):

=============  ======================================================================
model          the nouns: snapshots, levels, actions, plans; ``placing``: requests and verdicts;
               ``plain``: words of others, fit to be passed on
settings       every knob once: type, default, bounds, help
report         what a host tells schedulers and operators, and its codec
decide/        pure rules: data in, data out; no clock, file, log, thread or network
predictors     the door by which a peak predictor is loaded
rules          the door by which the rules of the ladder are loaded
sense/         edge in: readings of /proc, /sys and control groups; ``derive`` is pure
act/           edge out: carries a plan out, one file per effector
hypervisor/    what we need of one, and libvirt
privileged     the writes that need root, behind oslo.privsep; ``squeeze`` is what they do to control groups
leases         limits lowered for a moment, and the watchdog that puts them back whoever dies
controller     the host loop: sense, decide, act, report; put together in ``assembly``
answers        what nova and operators ask of it
foresight      feeds the predictor, and keeps what it learned
arrivals       guests on their way to here, whose trust domains count already
contents       what guests share: counted by the kernel, and sketched where the operator wants it
watch          between two passes: cheap looks, or the kernel's alarms where it has them; when one is due at once
chronicle      what was told to the log and to operators
publish        state that must survive a restart, as files; ``keeping`` is the controller's use of them
parting        gives guests what is free when a host is left to itself
codec, record  the nouns as data and back, exactly; the decision log
rpc            the host's endpoint on oslo.messaging, and its client
conf           settings as oslo.config options; ``unread`` tells names in files that none of them has
nova/          the only importer of nova: driver, filter, weigher, extra specs
cli, cmd/      the ``ovc`` and ``ovc-agent`` commands
simulate/      modelled hosts that run the same rules; nothing else knows of them
=============  ======================================================================
"""
