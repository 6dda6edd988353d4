#!/usr/bin/env bash
# Installs what tests/deploy/server checks with and pip has not: Debian's Compose and Caddy. Needs root, or sudo without
# a password. What is there already is left as it is. kubectl is not among it: Debian's is too old for what is checked.
set -euo pipefail

as_root() {
    if ((EUID == 0)); then "$@"; else sudo --non-interactive "$@"; fi
}

missing=()
command -v docker-compose > /dev/null || docker compose version > /dev/null 2>&1 || missing+=(docker-compose)
command -v caddy > /dev/null || missing+=(caddy)
if ((${#missing[@]})); then
    echo "installing ${missing[*]}"
    for try in 1 2 3; do
        as_root apt-get update --quiet=2 \
            && as_root env DEBIAN_FRONTEND=noninteractive \
                apt-get install --yes --quiet=2 --no-install-recommends "${missing[@]}" > /dev/null && break
        ((try < 3)) || { echo "${missing[*]} could not be installed" >&2; exit 1; }
        sleep "$((5 * try))"
    done
fi
