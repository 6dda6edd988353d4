#!/usr/bin/env bash
# Installs what the tests of pages and of JavaScript need and this machine lacks: Debian's Chromium, and the TypeScript
# compiler at the version that deploy/pos/web/package-lock.json pins by hash. Needs root, or sudo without a password,
# for the browser alone. What is there already is left as it is.
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
    echo "without npm, the types of the browser client are not checked" >&2
elif [[ ! -x deploy/pos/web/node_modules/.bin/tsc ]]; then
    echo "installing TypeScript"
    npm ci --prefix deploy/pos/web --ignore-scripts --no-audit --no-fund --loglevel=error
fi
