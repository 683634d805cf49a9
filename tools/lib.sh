# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
# shellcheck shell=bash disable=SC2034
# Shared by the shell commands of this checkout; to be sourced, not run.
# Defines: checkout (absolute path), cache (absolute path, created), say, die, run_logged.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cache=${OVC_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/ovc}
mkdir -p "$cache" || { echo "cannot create $cache: set OVC_CACHE to a directory you may write" >&2; exit 1; }
cache=$(cd "$cache" && pwd -P)

# One progress line on stderr: stdout belongs to the command's answer.
say() { printf '[%4ds] %s\n' "$SECONDS" "$*" >&2; }

die() { printf '%s: error: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# run_logged LOG COMMAND...: output to the file; when it fails, name the file and show its end.
run_logged() {
    local log=$1 rc=0
    shift
    mkdir -p "$(dirname "$log")"
    printf '\n+ %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1 </dev/null || rc=$?
    [ "$rc" = 0 ] && return 0
    tail -n 15 "$log" | sed 's/^/    | /' >&2
    die "'$1' failed with status $rc; the whole log is in $log"
}
