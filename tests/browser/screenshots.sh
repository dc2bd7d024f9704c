#!/usr/bin/env bash
# Pictures of the console's pages for docs/: of the demo's night while it goes on, and after it.
#
#   tests/browser/screenshots.sh [PROGRAM]      default: the portcullis that `make build` made
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${PORTCULLIS_CACHE:-$HOME/.cache/portcullis}
program=${1:-${CARGO_TARGET_DIR:-$cache/target}/release/portcullis}
modules=$cache/tools/browser-$(sha256sum "$here/tests/browser/package-lock.json" | cut -c1-12)
port=18489
base=http://127.0.0.1:$port

log=$(mktemp)
operators=$(mktemp)
token=$(openssl rand -hex 32)
printf 'people: [{name: ada, role: operator, token_sha256: %s}]\n' "$(printf %s "$token" | sha256sum | cut -d' ' -f1)" > "$operators"
"$program" demo --console "127.0.0.1:$port" --operators "$operators" > "$log" 2>&1 &
demo=$!
trap 'kill "$demo" 2> /dev/null || true; rm -f "$log" "$operators"' EXIT

until_said() {
    until grep -q "$1" "$log"; do
        kill -0 "$demo" || { cat "$log" >&2 && exit 1; }
        read -rt 0.2 <> <(:) || true
    done
}

tell() { node "$here/tests/browser/driver.mjs" "$modules" /usr/bin/chromium "$base"; }

shot() { # path name [full]
    printf '{"what":"goto","path":"%s"}\n{"what":"shot","file":"%s/docs/%s.png","fullPage":%s}\n' "$1" "$here" "$2" "${3:-false}"
}

# Ten minutes into the attack.
until_said ' 02:5[0-4]:'
id=$(curl -s "$base/incidents" | grep -o 'href="/incidents/[^"]*' | head -1 | cut -d/ -f3)
blocked=$(curl -s "$base/blocks" | grep -o 'value=[0-9][0-9.]*"' | head -1 | sed 's/value=//; s/"//')
{
    printf '{"what":"size","width":1200,"height":860}\n{"what":"scheme","scheme":"light"}\n'
    shot / overview
    shot /incidents incidents
    shot /blocks blocks
    shot /playbooks playbooks
    shot /edges edges
    shot "/who?value=$blocked" who
    printf '{"what":"goto","path":"/sign-in"}\n{"what":"fill","selector":"#token","text":"%s"}\n' "$token"
    printf '{"what":"submit","selector":"form.deed button"}\n{"what":"wait","selector":".signed form"}\n'
    shot '/act?do=tighten&playbook=ip-account-fanout&aggressive=yes' act true
    printf '{"what":"fill","selector":"#reason","text":"one try per account since 02:40"}\n{"what":"submit","selector":"button.do"}\n'
    printf '{"what":"wait","selector":"#came"}\n{"what":"goto","path":"/act?do=lift&tenant=default&scope=IP&value=%s"}\n' "$blocked"
    printf '{"what":"fill","selector":"#reason","text":"our own monitoring"}\n{"what":"submit","selector":"button.do"}\n'
    printf '{"what":"wait","selector":"#came"}\n{"what":"goto","path":"/act?do=block&tenant=default&scope=ASN&value=AS64500"}\n'
    printf '{"what":"fill","selector":"#reason","text":"their whole provider"}\n{"what":"submit","selector":"button.do"}\n'
    printf '{"what":"wait","selector":"#came"}\n'
    shot /actions actions
    printf '{"what":"size","width":390,"height":844}\n{"what":"scheme","scheme":"dark"}\n'
    shot / telephone
} | tell
until_said 'the night is over'
{
    printf '{"what":"size","width":1200,"height":1700}\n{"what":"scheme","scheme":"dark"}\n'
    shot "/incidents/$id" report
} | tell
ls -la "$here"/docs/*.png
