# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
# shellcheck shell=bash
#
# DevStack's side of the plugin, called as: source plugin.sh stack|unstack|clean [phase]
#
# Nothing is started or restarted here. The controller is part of nova-compute, the filter and the weigher
# are part of nova-scheduler, and DevStack starts both after the phase post-config.
# nova-cpu.conf is not written to: DevStack makes it from nova.conf when it starts nova-compute.

_XTRACE_OVC=$(set +o | grep xtrace)
set +o xtrace

OVC_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

OVC_DRIVER=ovc.OvcLibvirtDriver
# What nova uses where nothing is said; naming a filter or weigher of our own drops it.
OVC_NOVA_FILTERS=nova.scheduler.filters.all_filters
OVC_NOVA_WEIGHERS=nova.scheduler.weights.all_weighers
OVC_NOVA_DRIVER=libvirt.LibvirtDriver
OVC_INITIAL_RATIO=1.0
OVC_STATS_PERIOD=10

# The opposite of _ovc_with.
function _ovc_without {
    local list=",${1// /}," item
    shift
    for item in "$@"; do
        list=${list//,$item,/,}
    done
    list=${list#,}
    echo "${list%,}"
}

# A value that is there already is somebody's decision.
function _ovc_iniset_if_unset {
    if [[ -z $(iniget "$NOVA_CONF" "$1" "$2") ]]; then
        iniset "$NOVA_CONF" "$1" "$2" "$3"
    fi
}

function configure_ovc_scheduler {
    local listed with
    listed=$(iniget "$NOVA_CONF" filter_scheduler enabled_filters)
    iniset "$NOVA_CONF" filter_scheduler enabled_filters\
        "$(_ovc_with "${listed:-$NOVA_FILTERS}" "${OVC_FILTERS[@]##*.}")"

    # One line for each: iniget_multiline has them in one, with blanks between.
    listed=$(iniget_multiline "$NOVA_CONF" filter_scheduler available_filters)
    listed=${listed// /,}
    with=$(_ovc_with "${listed:-$OVC_NOVA_FILTERS}" "${OVC_FILTERS[@]}")
    if [[ $with != "$listed" ]]; then
        # shellcheck disable=SC2086  # into words
        iniset_multiline "$NOVA_CONF" filter_scheduler available_filters ${with//,/ }
    fi

    listed=$(iniget "$NOVA_CONF" filter_scheduler weight_classes)
    iniset "$NOVA_CONF" filter_scheduler weight_classes\
        "$(_ovc_with "${listed:-$OVC_NOVA_WEIGHERS}" "${OVC_WEIGHERS[@]}")"

    iniset "$NOVA_CONF" ovc_scheduler dry_run "$OVC_DRY_RUN"
}

function configure_ovc_compute {
    local driver
    driver=$(iniget "$NOVA_CONF" DEFAULT compute_driver)
    if [[ $driver != "$OVC_NOVA_DRIVER" && $driver != "$OVC_DRIVER" ]]; then
        warn $LINENO "ovc: compute_driver is \"$driver\"; the plugin works with $OVC_NOVA_DRIVER only and leaves this\
 host to nova: set VIRT_DRIVER=libvirt to have it managed"
        return 0
    fi
    iniset "$NOVA_CONF" DEFAULT compute_driver "$OVC_DRIVER"
    _ovc_iniset_if_unset DEFAULT initial_ram_allocation_ratio "$OVC_INITIAL_RATIO"
    _ovc_iniset_if_unset libvirt mem_stats_period_seconds "$OVC_STATS_PERIOD"
    iniset "$NOVA_CONF" ovc_host dry_run "$OVC_DRY_RUN"
    iniset "$NOVA_CONF" ovc_host state_path "$OVC_STATE_DIR"
    iniset "$NOVA_CONF" ovc_host migrate "$OVC_MIGRATE"
    configure_ovc_nova

    sudo install -d -o "$STACK_USER" "$OVC_STATE_DIR"
    _ovc_stop_ksmtuned
}

# The user that DevStack makes for nova itself, with the role admin.
function configure_ovc_nova {
    iniset "$NOVA_CONF" ovc_nova auth_type password
    iniset "$NOVA_CONF" ovc_nova auth_url "$KEYSTONE_SERVICE_URI"
    iniset "$NOVA_CONF" ovc_nova username nova
    iniset "$NOVA_CONF" ovc_nova password "$SERVICE_PASSWORD"
    iniset "$NOVA_CONF" ovc_nova user_domain_name "$SERVICE_DOMAIN_NAME"
    iniset "$NOVA_CONF" ovc_nova project_name "$SERVICE_PROJECT_NAME"
    iniset "$NOVA_CONF" ovc_nova project_domain_name "$SERVICE_DOMAIN_NAME"
    iniset "$NOVA_CONF" ovc_nova region_name "$REGION_NAME"
}

# DevStack switches it on, and two masters of the kernel's page sharing undo each other's work.
function _ovc_stop_ksmtuned {
    local was=""
    if systemctl --quiet is-enabled ksmtuned 2>/dev/null; then
        was+=" enabled"
    fi
    if systemctl --quiet is-active ksmtuned; then
        was+=" active"
    fi
    if [[ -n $was ]]; then
        echo "$was" >>"$OVC_STATE_DIR/ksmtuned"
        sudo systemctl disable --now ksmtuned
    fi
}

function _ovc_put_ksmtuned_back {
    local was told=$OVC_STATE_DIR/ksmtuned
    if [[ ! -f $told ]]; then
        return 0
    fi
    was=$(<"$told")
    # DevStack is about to do it. As it ends it sets page sharing back as it found it; ksmtuned has the last word.
    stop_process n-cpu
    if [[ $was == *enabled* ]]; then
        sudo systemctl enable ksmtuned
    fi
    if [[ $was == *active* ]]; then
        sudo systemctl start ksmtuned
    fi
    sudo rm -f "$told"
}

# After local.conf has had its say: what it took away, and what the host lacks.
function check_ovc {
    local listed missing
    if is_service_enabled n-sch; then
        listed=$(iniget "$NOVA_CONF" filter_scheduler enabled_filters)
        # shellcheck disable=SC2086  # into words
        missing=$(_ovc_without "$(_ovc_with "" "${OVC_FILTERS[@]##*.}")" ${listed//,/ })
        if [[ -n $missing ]]; then
            warn $LINENO "ovc: enabled_filters in $NOVA_CONF lacks $missing, so guests are placed without it: add it to\
 that option in local.conf"
        fi
    fi
    # On a host that is not ours there is nothing to look after.
    if ! is_service_enabled n-cpu || [[ $(iniget "$NOVA_CPU_CONF" DEFAULT compute_driver) != "$OVC_DRIVER" ]]; then
        return 0
    fi
    if [[ -n $(iniget "$NOVA_CPU_CONF" DEFAULT ram_allocation_ratio) ]]; then
        warn $LINENO "ovc: ram_allocation_ratio in $NOVA_CPU_CONF wins over the ratio that the plugin keeps:\
 remove it from local.conf, or with [libvirt] file_backed_memory, which needs it, set [ovc_host] manage_ratio = false"
    fi
    if [[ -z $(swapon --show=NAME --noheadings) ]]; then
        warn $LINENO "ovc: this host has no swap, so its memory is not overcommitted: add a swap file or partition"
    fi
}

# After ours has been taken out of it: nova's own default needs no line.
function _ovc_reset {
    local conf=$1 section=$2 option=$3 left=$4 default=$5
    if [[ -z $left || $left == "$default" ]]; then
        inidelete "$conf" "$section" "$option"
    else
        iniset "$conf" "$section" "$option" "$left"
    fi
}

# All of ours: what an earlier run has enabled may not be wanted any more.
function _ovc_unconfigure_scheduler {
    local conf=$1 listed left
    listed=$(iniget "$conf" filter_scheduler enabled_filters)
    left=$(_ovc_without "$listed" "${OVC_ALL_FILTERS[@]##*.}")
    if [[ $left != "${listed// /}" ]]; then
        _ovc_reset "$conf" filter_scheduler enabled_filters "$left" ""
    fi

    listed=$(iniget_multiline "$conf" filter_scheduler available_filters)
    listed=${listed// /,}
    left=$(_ovc_without "$listed" "${OVC_ALL_FILTERS[@]}")
    if [[ $left == "$listed" ]]; then
        :
    elif [[ $left == "$OVC_NOVA_FILTERS" ]]; then
        inidelete "$conf" filter_scheduler available_filters
    else
        # shellcheck disable=SC2086  # into words
        iniset_multiline "$conf" filter_scheduler available_filters ${left//,/ }
    fi

    listed=$(iniget "$conf" filter_scheduler weight_classes)
    left=$(_ovc_without "$listed" "${OVC_WEIGHERS[@]}")
    if [[ $left != "${listed// /}" ]]; then
        _ovc_reset "$conf" filter_scheduler weight_classes "$left" "$OVC_NOVA_WEIGHERS"
    fi
}

function _ovc_unconfigure_compute {
    local conf=$1
    if [[ $(iniget "$conf" DEFAULT compute_driver) != "$OVC_DRIVER" ]]; then
        return 0
    fi
    iniset "$conf" DEFAULT compute_driver "$OVC_NOVA_DRIVER"
    _ovc_reset "$conf" DEFAULT initial_ram_allocation_ratio\
        "$(iniget "$conf" DEFAULT initial_ram_allocation_ratio)" "$OVC_INITIAL_RATIO"
    _ovc_reset "$conf" libvirt mem_stats_period_seconds\
        "$(iniget "$conf" libvirt mem_stats_period_seconds)" "$OVC_STATS_PERIOD"
}

function unconfigure_ovc {
    local conf section option
    for conf in "$NOVA_CONF" "$NOVA_CPU_CONF"; do
        if [[ ! -f $conf ]]; then
            continue
        fi
        _ovc_unconfigure_scheduler "$conf"
        _ovc_unconfigure_compute "$conf"
        inidelete "$conf" ovc_scheduler dry_run
        inidelete "$conf" ovc_host dry_run
        inidelete "$conf" ovc_host state_path
        inidelete "$conf" ovc_host migrate
        for option in auth_type auth_url username password user_domain_name project_name project_domain_name\
            region_name; do
            inidelete "$conf" ovc_nova "$option"
        done
        for section in ovc_scheduler ovc_host ovc_nova; do
            # What somebody else has put there stays, and so does its heading.
            if [[ -z $(sed -n "/^\[$section\]/,/^\[/ { /^[^[]/p }" "$conf") ]]; then
                sed -i "/^\[$section\]$/d" "$conf"
            fi
        done
    done
}

if is_service_enabled ovc; then
    case "$1 ${2:-}" in
        "stack install")
            # nova-api needs the package as well: it refuses typos in extra specs.
            if is_service_enabled n-api n-cpu n-sch; then
                echo_summary "Installing ovc"
                setup_develop "$OVC_DIR"
            fi
            ;;
        "stack post-config")
            if is_service_enabled n-sch; then
                echo_summary "Configuring ovc in nova-scheduler"
                configure_ovc_scheduler
            fi
            if is_service_enabled n-cpu; then
                echo_summary "Configuring ovc in nova-compute"
                configure_ovc_compute
            fi
            ;;
        "stack extra")
            check_ovc
            ;;
    esac
fi

# Also when the service was disabled since: what an earlier run has left must go.
case $1 in
    unstack)
        unconfigure_ovc
        _ovc_put_ksmtuned_back
        ;;
    clean)
        sudo rm -rf "${OVC_STATE_DIR:?}"
        ;;
esac

$_XTRACE_OVC
