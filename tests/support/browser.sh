#!/usr/bin/env bash
# Installs what the tests of pages and of JavaScript need and this machine lacks: Debian's Chromium, and from npm, at the
# versions that package-lock.json files pin by hash, the TypeScript compiler (deploy/pos/web) and axe-core, which checks
# pages for accessibility (tests/support/npm). Needs root, or sudo without a password, for the browser alone. What is
# there already is left as it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

as_root() {
    if ((EUID == 0)); then "$@"; else sudo --non-interactive "$@"; fi
}

if ! command -v chromium > /dev/null; then
    echo "installing Chromium"
    for try in 1 2 3; do
        as_root apt-get update --quiet=2 \
            && as_root env DEBIAN_FRONTEND=noninteractive \
                apt-get install --yes --quiet=2 --no-install-recommends chromium fonts-dejavu-core > /dev/null && break
        ((try < 3)) || { echo "Chromium could not be installed" >&2; exit 1; }
        sleep "$((5 * try))"
    done
fi

if ! command -v npm > /dev/null; then
    echo "without npm, neither the types of the browser client nor the accessibility of pages is checked" >&2
else
    for folder in deploy/pos/web tests/support/npm; do
        if [[ ! -e $folder/node_modules/.package-lock.json || $folder/package-lock.json -nt $folder/node_modules ]]; then
            echo "installing what $folder/package-lock.json names"
            npm ci --prefix "$folder" --ignore-scripts --no-audit --no-fund --loglevel=error
        fi
    done
    make assets # htmx and uPlot, for the console
fi
