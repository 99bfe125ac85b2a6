#!/bin/sh
# Run once before the stack of the profile `scale` starts: passwords as files, drawn here and kept in a volume.
# Group 10001 may read them. INDEX_BACKEND says where the codes lie: milvus or pgvector.
set -eu
place=${1:-/run/hashguard}
umask 027

draw() {
    [ -s "$place/$1" ] && return 0
    python -c 'import secrets; print(secrets.token_urlsafe(32))' >"$place/.$1"
    mv "$place/.$1" "$place/$1"
}

for name in postgres_password minio_user minio_password grafana_password; do draw "$name"; done
address="hashguard:$(cat "$place/postgres_password")@postgres:5432/hashguard"
echo "postgresql://$address" >"$place/catalog_url"
case ${INDEX_BACKEND:-milvus} in
    milvus) echo "http://milvus:19530" >"$place/index_url" ;;
    pgvector) echo "postgresql://$address" >"$place/index_url" ;;
    *)
        echo "INDEX_BACKEND: wanted milvus or pgvector, got $INDEX_BACKEND" >&2
        exit 2
        ;;
esac
