#!/usr/bin/env bash
# Installs what `make check-deploy` looks the agent's packages over with and this machine lacks: Debian's lintian, rpm,
# wixl and msitools. Needs root, or sudo without a password. What is there already is left as it is.
set -euo pipefail

as_root() {
    if ((EUID == 0)); then "$@"; else sudo --non-interactive "$@"; fi
}

missing=()
for program in lintian rpm wixl; do
    command -v "$program" > /dev/null || missing+=("$program")
done
command -v msiinfo > /dev/null || missing+=(msitools)
((${#missing[@]})) || exit 0
echo "installing ${missing[*]}"
for try in 1 2 3; do
    as_root apt-get update --quiet=2 \
        && as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install --yes --quiet=2 --no-install-recommends "${missing[@]}" > /dev/null && break
    ((try < 3)) || { echo "${missing[*]} could not be installed" >&2; exit 1; }
    sleep "$((5 * try))"
done
