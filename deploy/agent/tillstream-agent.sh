#!/bin/sh
# The agent's command as people type it: on this machine's till, and as the till's own user. Files that root wrote into
# the state folder would be closed to the agent, so root steps down first. Another state folder is left to who names it.
set -eu
bin=$(dirname "$(readlink -f "$0")")
root=${bin%/usr/bin}
if [ -z "${TILLSTREAM_STATE:-}" ]; then
    export TILLSTREAM_STATE="$root/var/lib/tillstream-agent"
    export TILLSTREAM_CONFIG="${TILLSTREAM_CONFIG:-$root/etc/tillstream-agent/agent.toml}"
    if [ "$(id -u)" = 0 ]; then
        export HOME="$TILLSTREAM_STATE"
        if [ -z "$root" ]; then
            set -- --reuid=tillstream-agent --regid=tillstream-agent --init-groups \
                /usr/lib/tillstream-agent/tillstream-agent "$@"
        else # this system need not know the user of an image that is being made
            user=$(sed -n 's/^tillstream-agent:[^:]*:\([0-9]*\):.*/\1/p' "$root/etc/passwd")
            group=$(sed -n 's/^tillstream-agent:[^:]*:[0-9]*:\([0-9]*\):.*/\1/p' "$root/etc/passwd")
            set -- --reuid="$user" --regid="$group" --clear-groups \
                "$root/usr/lib/tillstream-agent/tillstream-agent" "$@"
        fi
        exec setpriv "$@"
    fi
fi
exec "$root/usr/lib/tillstream-agent/tillstream-agent" "$@"
