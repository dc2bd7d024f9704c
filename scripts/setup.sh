#!/usr/bin/env bash
# Installs what building and testing need, and fetches the real parts the tests start. Run it as often as you like:
# what is there is left alone, and when everything is there it needs no network and no root.
#
#   scripts/setup.sh              everything: build tools, nginx, Java, Apache Kafka, the schema registry (Apicurio)
#   scripts/setup.sh --build      build tools only (what `make demo` needs)
#
#   PORTCULLIS_CACHE=DIR          where the jars go; default ~/.cache/portcullis
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${PORTCULLIS_CACHE:-$HOME/.cache/portcullis}

# The version stands in tests/kafka/pom.xml and nowhere else.
kafka_version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$here/tests/kafka/pom.xml")
registry_version=2.6.13
registry_artifact=io.apicurio:apicurio-registry-app:$registry_version.Final:tar.gz:all

say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

has() { command -v "$1" > /dev/null 2>&1; }

# Debian keeps nginx outside of an ordinary user's PATH.
has_nginx() { has nginx || [ -x /usr/sbin/nginx ]; }

# Java 17 or newer.
has_java() {
    local version
    has java || return 1
    version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1)
    [ -n "$version" ] && [ "$version" -ge 17 ]
}

# librdkafka's build asks for headers, which have no command to look for.
has_header() { [ -e "/usr/include/$1" ] || [ -e "/usr/include/$(uname -m)-linux-gnu/$1" ]; }

# bindgen loads libclang at build time; it does not come with the `clang` command alone.
has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' > /dev/null ||
        compgen -G "/usr/lib/*/libclang*.so*" > /dev/null
}

wanted=()
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
    want 'has cmake' cmake
    want 'has curl' curl
    want '[ -e /etc/ssl/certs/ca-certificates.crt ]' ca-certificates
}

missing_test_packages() {
    want has_nginx nginx
    want has_java openjdk-17-jre-headless
}

install_packages() {
    if [ ${#wanted[@]} -eq 0 ]; then return 0; fi
    if ! has apt-get; then
        fail "this machine lacks: ${wanted[*]} (Debian's names). Only Debian and its kin are set up by this script;" \
            "install them with your package manager and run it again."
    fi
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        has sudo || fail "run as root: apt-get install --no-install-recommends ${wanted[*]}"
        as_root=(sudo)
    fi
    say "installing ${wanted[*]}"
    "${as_root[@]}" apt-get update -qq
    # The service that Debian's nginx starts by itself would take port 80; the tests start their own.
    local started_nginx=0
    case " ${wanted[*]} " in *' nginx '*) started_nginx=1 ;; esac
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${wanted[@]}" \
        > /dev/null
    if [ "$started_nginx" -eq 1 ] && has systemctl; then
        "${as_root[@]}" systemctl disable --now nginx > /dev/null 2>&1 || true
    fi
    wanted=()
}

check_cargo() {
    has cargo || [ -x "$HOME/.cargo/bin/cargo" ] || fail "cargo is missing. Install Rust with rustup:" \
        "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal" \
        "(then open a new shell). The version is pinned in rust-toolchain.toml and comes by itself."
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
        fail "could not fetch $(basename "$target"); the message of Maven is above"
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

build_part() {
    missing_build_packages
    install_packages
    check_cargo
}

kafka_part() {
    missing_test_packages
    install_packages
    if [ -d "$cache/kafka-$kafka_version/libs" ]; then return 0; fi
    need_maven
    say "fetching Apache Kafka $kafka_version into $cache"
    fetch_into "$cache/kafka-$kafka_version" fetch_kafka
}

registry_part() {
    want has_java openjdk-17-jre-headless
    install_packages
    if [ -d "$cache/apicurio-$registry_version" ]; then return 0; fi
    need_maven
    say "fetching Apicurio Registry $registry_version into $cache"
    fetch_into "$cache/apicurio-$registry_version" fetch_registry
}

case ${1:-} in
    '')
        build_part
        kafka_part
        registry_part
        ;;
    --build) build_part ;;
    *)
        sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$0" >&2
        exit 2
        ;;
esac
