# shellcheck shell=bash disable=SC2154
# The private PostgreSQL and Redis, reached by Unix socket alone.

readonly data=$home/postgres

# The system refuses a socket whose path is longer.
settle_sockets() {
  sockets=$home/run
  if (($(printf '%s/.s.PGSQL.5432' "$sockets" | wc -c) > 106)); then
    sockets=/tmp/memoric-$EUID-$(printf %s "$home" | sha256sum | cut -c1-12)
    say "the path of the state is too long for sockets: they are in $sockets"
    mkdir -m 0700 "$sockets" 2>/dev/null || is_private "$sockets" ||
      die "$sockets is there already and is not a private folder of this user"
  fi
  rm -f "$sockets"/{backend,redis}.sock
}

is_private() {
  [[ -d $1 && ! -L $1 && -O $1 && $(stat -c %a "$1") == 700 ]]
}

start_postgres() {
  find_postgres
  [[ -d $data ]] || make_database
  disown_dead_server
  # Nobody's content in a log: no parameters, no statement beside an error, no details of rows.
  launch postgres "$postgres/postgres" -D "$data" -p 5432 \
    -c listen_addresses= -c unix_socket_directories="\"${sockets//\"/\"\"}\"" -c unix_socket_permissions=0700 \
    -c logging_collector=off -c log_statement=none -c log_min_error_statement=panic -c log_error_verbosity=terse \
    -c log_parameter_max_length=0 -c log_parameter_max_length_on_error=0 -c cluster_name=memoric
  await postgres 300 "$postgres/pg_isready" -q -h "$sockets" -p 5432
}

# The first in PATH, else the newest installed; but for a database that exists, the version that made it.
find_postgres() {
  local made_by='' folder
  [[ ! -d $data ]] || made_by=$(<"$data/PG_VERSION")
  while IFS= read -r folder; do
    if [[ -x $folder/postgres && $("$folder/postgres" --version) == *"(PostgreSQL) "${made_by:-[0-9]*}[!0-9]* ]]; then
      postgres=$folder
      return
    fi
  done < <(folders_of_postgres)
  die "no PostgreSQL ${made_by:+$made_by }that $(id -un) can run is installed${made_by:+, and one made $data}"
}

folders_of_postgres() {
  local initdb
  if initdb=$(command -v initdb); then
    dirname "$(realpath "$initdb")"
  fi
  compgen -G '/usr/lib/postgresql/*/bin' | sort -rV
}

# Under another name until it is whole, so that one that was cut off is made anew.
make_database() {
  say "making the database"
  rm -rf "$data.new"
  "$postgres/initdb" -D "$data.new" --username=postgres --pwfile="$home/secrets/db-admin-password" \
    --auth=scram-sha-256 --encoding=UTF8 --locale=C --data-checksums >"$home/log/initdb.log" 2>&1 ||
    fail initdb "the database could not be made"
  mv "$data.new" "$data"
}

# A dead server is no hindrance to PostgreSQL, except where its number is taken: by another program, or by itself as
# long as nobody has reaped it. A number that no process can have keeps the rest of the file, by which PostgreSQL tells
# whether a part of that server still uses its memory.
disown_dead_server() {
  local pid=''
  { read -r pid <"$data/postmaster.pid"; } 2>/dev/null || :
  [[ $(readlink "/proc/$pid/cwd") != "$data" ]] || return 0
  rm -f "$sockets"/.s.PGSQL.5432{,.lock}
  [[ -z $pid ]] || sed -i "1s/.*/$((4194304 + 1))/" "$data/postmaster.pid"
}

start_redis() {
  # To disk once a second is often enough: what Redis tells fast, PostgreSQL holds as the truth.
  replace "$home/redis/redis.conf" <<END
port 0
unixsocket $(quoted "$sockets/redis.sock")
unixsocketperm 700
protected-mode yes
dir $(quoted "$home/redis")
save ""
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
END
  launch redis redis-server "$home/redis/redis.conf"
  await redis 120 redis_answers
}

redis_answers() {
  [[ $(redis-cli -s "$sockets/redis.sock" ping 2>/dev/null) == PONG ]]
}
