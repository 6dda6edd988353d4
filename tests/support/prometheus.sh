#!/usr/bin/env bash
# Installs Prometheus and its promtool for the tests of deploy/observability: Debian's package. Needs root, or sudo
# without a password. Its service is neither needed nor started by the tests; what is there already is left as it is.
set -euo pipefail

as_root() {
    if ((EUID == 0)); then "$@"; else sudo --non-interactive "$@"; fi
}

command -v prometheus > /dev/null && command -v promtool > /dev/null && exit
echo "installing Prometheus"
for try in 1 2 3; do
    as_root apt-get update --quiet=2 \
        && as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install --yes --quiet=2 --no-install-recommends prometheus > /dev/null && break
    ((try < 3)) || { echo "Prometheus could not be installed" >&2; exit 1; }
    sleep "$((5 * try))"
done
