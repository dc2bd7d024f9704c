#!/usr/bin/env bash
# Installs what building and testing need, and fetches the real parts the tests start. Run it as often as you like:
# what is there is left alone, and when everything is there it needs no network and no root.
#
#   scripts/setup.sh              everything: build tools, the edges (nginx, HAProxy, Redis, nftables), Java, Apache
#                                 Kafka, the schema registry (Apicurio), Keycloak, clients of CrowdSec's protocol, a mail
#                                 server, a browser (Chromium, with Node to drive it), and the tools that check licences
#                                 and spelling
#   scripts/setup.sh --build      build tools only (what `make demo` needs)
#   scripts/setup.sh --tools      build tools, and those that check licences and spelling (what `make check` needs)
#
#   PORTCULLIS_CACHE=DIR          where jars and tools go; default ~/.cache/portcullis
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${PORTCULLIS_CACHE:-$HOME/.cache/portcullis}

# The version stands in tests/kafka/pom.xml and nowhere else.
kafka_version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$here/tests/kafka/pom.xml")
registry_version=2.6.13
# A producer of login events, which the tests start.
keycloak_version=26.0.8
registry_artifact=io.apicurio:apicurio-registry-app:$registry_version.Final:tar.gz:all
# Pinned: a new release may find fault with what was fine. The Makefile reads them here.
cargo_deny_version=0.20.2
typos_version=1.52.0
# A client of CrowdSec's protocol, which the tests run against `portcullis edge`.
pycrowdsec_version=0.0.5
# A mail server, to which the tests let `portcullis notify` send.
aiosmtpd_version=1.4.6
# What drives the browser: versions and checksums stand in tests/browser/package-lock.json. Another lock, another folder.
browser_lock=$(sha256sum "$here/tests/browser/package-lock.json" | cut -c1-12)
# What Cargo.toml asks for; rust-toolchain.toml has rustup bring it.
rust_minor=$(sed -n 's/^rust-version = "1\.\([0-9]*\)"$/\1/p' "$here/Cargo.toml")

say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

has() { command -v "$1" > /dev/null 2>&1; }

# Debian keeps servers outside of an ordinary user's PATH.
has_server() { has "$1" || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }

# Debian's python3 makes no environment of its own without this package.
has_venv() { has python3 && python3 -c 'import ensurepip, venv' > /dev/null 2>&1; }

has_cargo() { has cargo || [ -x "$HOME/.cargo/bin/cargo" ]; }

# Java 17 or newer.
has_java() {
    local version
    has java || return 1
    version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1)
    [ -n "$version" ] && [ "$version" -ge 17 ]
}

# Node 20 or newer, which is what drives the browser.
has_node() {
    local version
    has node || return 1
    version=$(node --version)
    version=${version#v}
    [ "${version%%.*}" -ge 20 ]
}

# librdkafka's build asks for headers, which have no command to look for.
has_header() { [ -e "/usr/include/$1" ] || [ -e "/usr/include/$(uname -m)-linux-gnu/$1" ]; }

# bindgen loads libclang at build time; it does not come with the `clang` command alone.
has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' > /dev/null ||
        compgen -G "/usr/lib/*/libclang*.so*" > /dev/null
}

wanted=()
is_updated=0
want() { # command-or-test package...
    local test=$1
    shift
    $test || wanted+=("$@")
}

missing_build_packages() {
    want 'has c++' build-essential
    want 'has make' build-essential
    want 'has pkg-config' pkg-config
    want 'has_header openssl/ssl.h' libssl-dev
    want 'has_header zlib.h' zlib1g-dev
    want 'has clang' clang
    want 'has_libclang' libclang-dev
    want 'has curl' curl
    want '[ -e /etc/ssl/certs/ca-certificates.crt ]' ca-certificates
}

missing_test_packages() {
    want 'has_server nginx' nginx
    want 'has_server haproxy' haproxy
    want 'has redis-server' redis-server
    want 'has redis-cli' redis-tools
    want 'has_server nft' nftables
    want 'has_server ip' iproute2
    want 'has nsenter' util-linux
    want has_java default-jre-headless
    want 'has javac' default-jdk-headless
    want 'has crowdsec-custom-bouncer' crowdsec-custom-bouncer
    want 'has python3' python3
    want 'has openssl' openssl
    want 'has chromium' chromium
    want has_node nodejs
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Once a run: a fresh machine has no lists of packages at all.
update_lists() {
    if [ "$is_updated" -eq 1 ]; then return 0; fi
    as_root apt-get update -qq
    is_updated=1
}

install_packages() {
    if [ ${#wanted[@]} -eq 0 ]; then return 0; fi
    if ! has apt-get; then
        fail "this machine lacks: ${wanted[*]} (Debian's names). Only Debian and its kin are set up by this script;" \
            "install them with your package manager and run it again."
    fi
    if [ "$(id -u)" -ne 0 ] && ! has sudo; then
        fail "run as root: apt-get install --no-install-recommends ${wanted[*]}"
    fi
    say "installing ${wanted[*]}"
    update_lists
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${wanted[@]}" > /dev/null
    # The services that Debian's packages start by themselves would hold ports; the tests start their own.
    local service
    for service in nginx haproxy redis-server crowdsec-custom-bouncer; do
        case " ${wanted[*]} " in
            *" $service "*)
                if has systemctl; then as_root systemctl disable --now "$service" > /dev/null 2>&1 || true; fi
                ;;
        esac
    done
    wanted=()
}

# Debian has rustup since version 13. Where there is none, installing it is left to a person: it would mean to run a
# script off the network.
rust_part() {
    if ! has_cargo && has apt-cache; then
        update_lists
        if LC_ALL=C apt-cache policy rustup | grep 'Candidate: [0-9]' > /dev/null; then want has_cargo rustup; fi
        install_packages
    fi
    has_cargo || fail "cargo is missing. Install Rust with rustup:" \
        "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal" \
        "(then try again). The version is pinned in rust-toolchain.toml and comes by itself."
    # In this folder rustup answers with the pinned version, and fetches it first where it is not there.
    local version
    version=$(cd "$here" && PATH="$HOME/.cargo/bin:$PATH" cargo --version) ||
        fail "cargo does not start; its message is above"
    local minor=${version#cargo 1.}
    minor=${minor%%.*}
    [ "$minor" -ge "$rust_minor" ] || fail "$version is too old, 1.$rust_minor is needed. Install Rust with rustup" \
        "(https://rustup.rs), which brings it by itself."
}

# Maven is only needed while something is still to be fetched.
need_maven() {
    want 'has mvn' maven
    install_packages
}

# Runs the function with a temporary directory beside the target and renames it at the end, so that an interrupted run
# is never taken for a whole one.
fetch_into() { # target function
    local target=$1 part
    mkdir -p "$(dirname "$target")"
    part=$(mktemp -d "$(dirname "$target")/.part.XXXXXX")
    if ! "$2" "$part"; then
        rm -rf "$part"
        fail "could not fetch $(basename "$target"); what went wrong is said above"
    fi
    chmod 755 "$part"
    # Two runs at once: the first to finish wins, the other throws its copy away.
    mv -T "$part" "$target" 2> /dev/null || rm -rf "$part"
}

fetch_kafka() {
    mvn -q -B -f "$here/tests/kafka/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$1/libs" >&2
}

fetch_registry() {
    mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy -Dartifact="$registry_artifact" \
        -DoutputDirectory="$1" >&2 &&
        tar -xzf "$1"/*.tar.gz -C "$1" --strip-components=0 && rm "$1"/*.tar.gz
}

# Built for its database in memory, which spares each start half a minute. A tree that is moved afterwards still starts.
fetch_keycloak() {
    mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy \
        -Dartifact="org.keycloak:keycloak-quarkus-dist:$keycloak_version:tar.gz" -DoutputDirectory="$1" >&2 &&
        tar -xzf "$1"/*.tar.gz -C "$1" --strip-components=1 && rm "$1"/*.tar.gz && "$1/bin/kc.sh" build --db=dev-mem >&2
}

# The environment stays where it was made, so its program is all that is kept of it.
fetch_typos() {
    python3 -m venv "$1/env" && "$1/env/bin/pip" install -q "typos==$typos_version" >&2 &&
        mkdir "$1/bin" && cp "$1/env/bin/typos" "$1/bin/typos" && rm -rf "$1/env"
}

# Packages without an environment: a test names the folder in PYTHONPATH.
fetch_pycrowdsec() {
    python3 -m venv "$1/env" && "$1/env/bin/pip" install -q --target "$1" "pycrowdsec==$pycrowdsec_version" >&2 &&
        rm -rf "$1/env"
}

fetch_aiosmtpd() {
    python3 -m venv "$1/env" && "$1/env/bin/pip" install -q --target "$1" "aiosmtpd==$aiosmtpd_version" >&2 &&
        rm -rf "$1/env"
}

# The two packages bring nothing else with them and run nothing when they are installed.
fetch_browser_modules() {
    cp "$here/tests/browser/package.json" "$here/tests/browser/package-lock.json" "$1" &&
        npm ci --prefix "$1" --ignore-scripts --no-audit --no-fund --silent >&2
}

# Built in a folder of its own, so that it does not disturb what is built of the program.
fetch_cargo_deny() {
    (cd "$here" && CARGO_TARGET_DIR="$1/build" PATH="$HOME/.cargo/bin:$PATH" \
        cargo install --quiet --locked --root "$1" --version "$cargo_deny_version" cargo-deny >&2) && rm -rf "$1/build"
}

build_part() {
    missing_build_packages
    install_packages
    rust_part
}

tools_part() {
    if [ ! -d "$cache/tools/typos-$typos_version" ]; then
        want has_venv python3-venv
        install_packages
        say "fetching typos $typos_version, which checks spelling"
        fetch_into "$cache/tools/typos-$typos_version" fetch_typos
    fi
    if [ ! -d "$cache/tools/cargo-deny-$cargo_deny_version" ]; then
        say "building cargo-deny $cargo_deny_version, which checks licences; takes about three minutes on two cores, once"
        fetch_into "$cache/tools/cargo-deny-$cargo_deny_version" fetch_cargo_deny
    fi
}

kafka_part() {
    if [ -d "$cache/kafka-$kafka_version/libs" ]; then return 0; fi
    need_maven
    say "fetching Apache Kafka $kafka_version into $cache"
    fetch_into "$cache/kafka-$kafka_version" fetch_kafka
}

registry_part() {
    if [ -d "$cache/apicurio-$registry_version" ]; then return 0; fi
    need_maven
    say "fetching Apicurio Registry $registry_version into $cache"
    fetch_into "$cache/apicurio-$registry_version" fetch_registry
}

keycloak_part() {
    if [ -d "$cache/keycloak-$keycloak_version" ]; then return 0; fi
    need_maven
    say "fetching Keycloak $keycloak_version into $cache"
    fetch_into "$cache/keycloak-$keycloak_version" fetch_keycloak
}

client_part() {
    if [ -d "$cache/tools/pycrowdsec-$pycrowdsec_version" ]; then return 0; fi
    want has_venv python3-venv
    install_packages
    say "fetching pycrowdsec $pycrowdsec_version, a client of CrowdSec's protocol"
    fetch_into "$cache/tools/pycrowdsec-$pycrowdsec_version" fetch_pycrowdsec
}

mail_part() {
    if [ -d "$cache/tools/aiosmtpd-$aiosmtpd_version" ]; then return 0; fi
    want has_venv python3-venv
    install_packages
    say "fetching aiosmtpd $aiosmtpd_version, a mail server"
    fetch_into "$cache/tools/aiosmtpd-$aiosmtpd_version" fetch_aiosmtpd
}

browser_part() {
    if [ -d "$cache/tools/browser-$browser_lock" ]; then return 0; fi
    want 'has npm' npm
    install_packages
    say "fetching playwright-core and axe-core, which drive the browser and check pages"
    fetch_into "$cache/tools/browser-$browser_lock" fetch_browser_modules
}

test_part() {
    missing_test_packages
    install_packages
    has_java || fail "Java 17 or newer is needed, and this machine's package default-jre-headless brings an older one"
    has_node || fail "Node 20 or newer is needed, and this machine's package nodejs brings an older one"
    kafka_part
    registry_part
    keycloak_part
    client_part
    mail_part
    browser_part
}

case ${1:-} in
    '')
        build_part
        tools_part
        test_part
        ;;
    --build) build_part ;;
    --tools)
        build_part
        tools_part
        ;;
    *)
        sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$0" >&2
        exit 2
        ;;
esac
