#!/bin/sh
# Installs the agent from this folder. It needs no network, and takes nothing from one.
#
#   ./install.sh [--root DIR] [--python PROGRAM]
#
# --root installs below DIR instead of /, for an image; the user is then made in DIR. --python names the Python to use,
# where it is not called python3.
set -eu
umask 022

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root= python=python3
say() { printf 'tillstream-agent: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }
while [ $# -gt 0 ]; do
    case "$1" in
    --root) root=$(CDPATH='' cd -- "$2" && pwd) || fail "there is no folder $2"; shift 2 ;;
    --python) python=$2; shift 2 ;;
    *) say "usage: ./install.sh [--root DIR] [--python PROGRAM]"; exit 2 ;;
    esac
done

[ "$(id -u)" = 0 ] || fail "this has to be run as root"
(cd "$here" && sha256sum --check --quiet --strict SHA256SUMS) || fail "this bundle is damaged; copy it again"
wanted=$(cat "$here/made-for")
command -v "$python" > /dev/null || fail "there is no $python here; this bundle is for Python $wanted"
found=$("$python" -c 'import platform, sys; print("%d.%d" % sys.version_info[:2], platform.machine())')
[ "$found" = "$wanted" ] || fail "this bundle is for Python $wanted, and $python is $found (see --python)"

# A new environment beside the old one, which goes only when the new one is whole.
library=$root/usr/lib/tillstream-agent
mkdir -p "$root/usr/lib"
rm -rf "$library.new"
"$python" -m venv --without-pip "$library.new"
pip=$(echo "$here"/wheels/pip-*.whl)
"$library.new/bin/python" -I "$pip/pip" --isolated install --quiet --disable-pip-version-check --no-cache-dir \
    --root-user-action=ignore --no-index -f "$here/wheels" \
    --require-hashes --requirement "$here/requirements.txt"
# The environment is moved once, so its programs are told where they will be.
sed -i "1s|^#!.*|#!$library/bin/python|" "$library.new/bin/tillstream-agent"
ln -s bin/tillstream-agent "$library.new/tillstream-agent"
cp "$here/SHA256SUMS" "$library.new/SHA256SUMS"
rm -rf "$library.old"
if [ -e "$library" ]; then mv "$library" "$library.old"; fi
mv "$library.new" "$library"
rm -rf "$library.old"

settings=$root/etc/tillstream-agent/agent.toml
(cd "$here/files" && find . -type f ! -path ./etc/tillstream-agent/agent.toml) | while read -r file; do
    mkdir -p "$root/$(dirname "$file")"
    cp "$here/files/$file" "$root/$file.new"
    mv "$root/$file.new" "$root/$file"
done
if [ ! -e "$settings" ]; then
    mkdir -p "$(dirname "$settings")"
    cp "$here/files/etc/tillstream-agent/agent.toml" "$settings"
fi

systemd-sysusers ${root:+--root="$root"} tillstream-agent.conf
owner=$(sed -n 's/^tillstream-agent:[^:]*:\([0-9]*\):\([0-9]*\):.*/\1:\2/p' "$root/etc/passwd")
state=$root/var/lib/tillstream-agent
if [ ! -d "$state" ]; then
    mkdir -p "$root/var/lib"
    mkdir -m 0700 "$state"
    chown "$owner" "$state"
fi
setpriv --reuid="${owner%:*}" --regid="${owner#*:}" --clear-groups "$library/bin/python" -c '' 2> /dev/null \
    || fail "the agent's own user may not run $python; name one that everybody may run: --python /usr/bin/python3"
if [ -z "$root" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable tillstream-agent.service
    systemctl restart tillstream-agent.service
fi
say "installed in $library"
if [ ! -e "$state/identity.json" ]; then
    say "next, as root: tillstream-agent enroll --server URL --token TOKEN"
    say "and then:      systemctl start tillstream-agent"
fi
