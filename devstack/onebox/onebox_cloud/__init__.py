# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A real small OpenStack on one machine, with hypervisors of a chosen memory size.

cli         the command line                 options     what a cloud shall be like
cloud       Cloud: up, down, wipe, status    state       where its files are; one cloud at a time
parts       every server it runs, as a table steps       bringing them up, in order
hosts       the pretend hypervisors          database    MariaDB, schemas, their snapshot
config      templates -> configuration       process     starting and ending servers
cgroup swap ksm mounts ports                 the machine's own resources, taken and given back
wipe        leaving nothing behind           report      what `onebox status` prints
client      openstacksdk: connection, images, flavors
"""
