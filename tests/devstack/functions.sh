# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
# shellcheck shell=bash disable=SC2034  # what is set here is read by others, as with DevStack's own
#
# The functions of DevStack that the plugin and its tests call, written anew from what they are documented to do,
# for where DevStack itself cannot be had. With DEVSTACK_DIR the same tests run with DevStack's own.

declare -A GITREPO=() GITDIR=() GITBRANCH=()
DEVSTACK_PLUGINS=${DEVSTACK_PLUGINS:-}

# -- files of settings: FILE SECTION OPTION [VALUE...] --

# The values of an option, one a line.
_ini_values() {
    [ -e "$1" ] || return 0
    awk -v section="[$2]" -v option="$3" '
        /^\[/ { inside = index($0, section) == 1; next }
        inside && match($0, "^" option "[ \t]*=[ \t]*") { print substr($0, RLENGTH + 1) }' "$1"
}

iniget() { _ini_values "$@" | paste -sd ' '; }
iniget_multiline() { _ini_values "$@" | paste -sd ' '; }

inidelete() {
    [ -e "$1" ] || return 0
    local left
    left=$(awk -v section="[$2]" -v option="$3" '
        /^\[/ { inside = index($0, section) == 1 }
        !(inside && match($0, "^" option "[ \t]*="))' "$1")
    printf '%s\n' "$left" >"$1"
}

iniset_multiline() {
    local file=$1 section=$2 option=$3 text
    shift 3
    inidelete "$file" "$section" "$option"
    grep -qsF "[$section]" "$file" || printf '\n[%s]\n' "$section" >>"$file"
    text=$(VALUES=$(printf '%s\n' "$@") awk -v section="[$section]" -v option="$option" '
        { print }
        index($0, section) == 1 {
            count = split(ENVIRON["VALUES"], values, "\n")
            for (i = 1; i <= count; i++) print option " = " values[i]
        }' "$file")
    printf '%s\n' "$text" >"$file"
}

# A value is replaced where it stands; a new one comes right below the heading of its section.
iniset() {
    [ "$1" != -sudo ] || shift
    local text
    if [ -n "$(_ini_values "$1" "$2" "$3")" ]; then
        text=$(VALUE=$4 awk -v section="[$2]" -v option="$3" '
            /^\[/ { inside = index($0, section) == 1 }
            inside && match($0, "^" option "[ \t]*=[ \t]*") { print substr($0, 1, RLENGTH) ENVIRON["VALUE"]; next }
            { print }' "$1")
        printf '%s\n' "$text" >"$1"
    else
        iniset_multiline "$1" "$2" "$3" "$4"
    fi
}

# -- services --

is_service_enabled() {
    local service
    for service in "$@"; do
        if [[ ",$ENABLED_SERVICES," == *",$service,"* ]]; then return 0; fi
    done
    return 1
}

enable_service() {
    local service
    for service in "$@"; do
        if [[ ",${DISABLED_SERVICES:-}," == *",$service,"* ]]; then
            warn $LINENO "$service has been disabled"
        elif ! is_service_enabled "$service"; then
            ENABLED_SERVICES+=",$service"
        fi
    done
}

# NAME COMMAND [GROUP]
run_process() {
    is_service_enabled "$1" || return 0
    [[ $2 == /* ]] || die $LINENO "$2: systemd wants an absolute path"
    iniset "$SYSTEMD_DIR/devstack@$1.service" Service ExecStart "$2"
    $SYSTEMCTL enable "devstack@$1.service"
    $SYSTEMCTL start "devstack@$1.service"
}

stop_process() {
    is_service_enabled "$1" || return 0
    if $SYSTEMCTL is-enabled "devstack@$1.service"; then
        $SYSTEMCTL stop "devstack@$1.service"
        $SYSTEMCTL disable "devstack@$1.service"
    fi
}

# -- plugins --

define_plugin() { :; }

enable_plugin() {
    DEVSTACK_PLUGINS+=",$1"
    GITREPO[$1]=$2 GITDIR[$1]=$DEST/$1 GITBRANCH[$1]=${3:-master}
}

# MODE [PHASE]; the file of settings is a mode of its own.
run_phase() {
    local plugin
    for plugin in ${DEVSTACK_PLUGINS//,/ }; do
        case $1 in
            override_defaults) ;;
            source)
                # shellcheck source-path=SCRIPTDIR source=../../devstack/settings
                source "${GITDIR[$plugin]}/devstack/settings"
                ;;
            *)
                # shellcheck source-path=SCRIPTDIR source=../../devstack/plugin.sh
                source "${GITDIR[$plugin]}/devstack/plugin.sh" "$@"
                ;;
        esac
    done
}

setup_develop() { pip_install -e "$(cd "$1" && pwd)"; }

# -- the rest --

# DEFAULT NAME: the variable as True or False; whatever is neither is the default.
trueorfalse() {
    case ${!2:-} in
        1 | [yY]es | YES | [tT]rue | TRUE) echo True ;;
        0 | [nN]o | NO | [fF]alse | FALSE) echo False ;;
        *) echo "$1" ;;
    esac
}

# Gives back the status it was called with, as DevStack's does: after a failed command it ends the run.
warn() {
    # shellcheck disable=SC2319  # a condition is what it is mostly called after
    local status=$?
    echo "[WARNING] ${BASH_SOURCE[1]}:$1 $2"
    return $status
}

die() {
    echo "[ERROR] ${BASH_SOURCE[1]}:$1 $2" >&2
    exit 1
}
