#!/bin/sh
# Run once before the service starts: the sample corpus and model where the home is empty, and the API keys as
# files. What is there is left alone, so that a second start takes seconds.
set -eu
keys=${1:-/run/hashguard}
umask 027
if [ "${SAMPLE:-on}" = on ] && [ ! -f "$HASHGUARD_HOME/demo/indexed.json" ]; then
    hashguard demo --no-serve
fi

# key NAME SCOPE...: a key of these scopes in the file NAME. Its name in the catalog tells whether it was made for
# this home: the volume of the keys may be older.
key() {
    name=$1
    shift
    case $known in
        *"\"name\": \"compose-$name\""*) [ ! -s "$keys/$name" ] || return 0 ;;
    esac
    options=
    for scope in "$@"; do options="$options --scope $scope"; done
    # shellcheck disable=SC2086 # two words for each scope
    hashguard keys create "compose-$name" $options >"$keys/.$name"
    mv "$keys/.$name" "$keys/$name"
}

known=$(hashguard keys list --json 2>/dev/null || true)
key client search write
key admin admin
echo "the API keys are in $keys: client (search, write) and admin"
