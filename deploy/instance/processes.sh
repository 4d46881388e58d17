# shellcheck shell=bash disable=SC2154
# Starting processes, knowing whether they live, and ending them in order: all by pid files, so that a run finds what a
# killed one left behind.

readonly -a end_order=(gateway backend migrate redis postgres)
# What asks each to end: of PostgreSQL, without waiting for its clients.
readonly -A end_signal=([gateway]=TERM [backend]=TERM [migrate]=TERM [redis]=TERM [postgres]=INT)
# How many seconds each has for it: the two of ours first finish what they are answering.
declare -A patience=([gateway]=45 [backend]=45 [migrate]=30 [redis]=60 [postgres]=120)
[[ ! ${MEMORIC_GATEWAY__GRACE-} =~ ^[0-9]+$ ]] || patience[gateway]=$((15 + 10#$MEMORIC_GATEWAY__GRACE))
[[ ! ${MEMORIC_BACKEND__GRACE-} =~ ^[0-9]+$ ]] || patience[backend]=$((15 + 10#$MEMORIC_BACKEND__GRACE))
boot=$(</proc/sys/kernel/random/boot_id)
declare -A pids=()
is_launching=false is_ending=false
# Nothing is ever written to it: reading from it is a sleep that a signal ends at once.
exec {idle}<> <(:)

# launch NAME COMMAND...: starts it in a session of its own, so that Ctrl-C reaches us alone and the order of the end
# is ours; should we be killed, the system asks it to end.
launch() {
  local -r name=$1 log=$home/log/$1.log
  [[ ! -s $log ]] || mv "$log" "$log.old"
  is_launching=true
  (
    register "$name" "$BASHPID"
    # A copy of the lock would hold it after us.
    exec {lock}>&- {idle}>&- </dev/null >>"$log" 2>&1
    equip "$name"
    exec setsid setpriv --pdeathsig "${end_signal[$name]}" -- "${@:2}"
  ) &
  pids[$name]=$!
  # The child did this too, should we be killed here; but it may not have come to it yet.
  register "$name" "$!"
  is_launching=false
  ! $is_ending || exit 0
}

register() {
  if born "$2"; then
    printf '%s %s\n' "$2" "$born" >"$home/run/$1.pid"
  fi
}

# await NAME SECONDS COMMAND...: until the command, which asks NAME, succeeds; for as long as all that was started lives.
await() {
  local -r deadline=$((SECONDS + $2))
  until "${@:3}"; do
    expect_life
    ((SECONDS < deadline)) || fail "$1" "$1 is not ready after $2 seconds"
    nap 0.1
  done
}

expect_life() {
  local name
  for name in "${!pids[@]}"; do
    lives "$name" || fail "$name" "$name ended by itself"
  done
}

# fail NAME REASON: with the last that NAME had to say.
fail() {
  tail -n 15 "$home/log/$1.log" >&2 || :
  die "$2: see $home/log/$1.log"
}

# What a signal does; never between the start of a process and the note of it.
end() {
  is_ending=true
  $is_launching || exit 0
}

stop_leftovers() {
  local name
  for name in "${end_order[@]}"; do
    ! lives "$name" || say "an earlier run left $name behind"
    stop "$name" || :
  done
}

stop_all() {
  local -r status=$?
  trap '' INT TERM HUP QUIT PIPE
  set +e
  local name is_clean=true
  for name in "${end_order[@]}"; do
    stop "$name" || is_clean=false
  done
  $is_clean || exit 1
  ((status)) || say "stopped"
  exit "$status"
}

# stop NAME: asks it to end and waits; makes it, and says no, where it does not.
stop() {
  local -r deadline=$((SECONDS + ${patience[$1]}))
  local pid rest is_clean=true
  if lives "$1"; then
    say "stopping $1"
    read -r pid rest <"$home/run/$1.pid"
    # One that was suspended would not hear it. A failure means that it is gone by now.
    { kill -s "${end_signal[$1]}" "$pid" && kill -s CONT "$pid"; } 2>/dev/null || :
    while lives "$1"; do
      if ((SECONDS >= deadline)) && $is_clean; then
        say "$1 did not stop in ${patience[$1]} seconds: killing it"
        kill -s KILL "$pid" 2>/dev/null || :
        is_clean=false
      fi
      nap 0.05
    done
  fi
  forget "$1"
  $is_clean
}

forget() {
  rm -f "$home/run/$1.pid"
  unset "pids[$1]"
}

# Whether the process in NAME's pid file lives, and is the one that was meant.
lives() {
  local pid noted
  { read -r pid noted <"$home/run/$1.pid"; } 2>/dev/null && born "$pid" && [[ $born == "$noted" ]]
}

# Sets `born` to what tells this process from any other that ever has the same number. Fails if it is dead.
born() {
  local line=''
  local -a fields
  { IFS= read -rd '' line <"/proc/$1/stat" || [[ -n $line ]]; } 2>/dev/null || return 1
  # The number, the name in brackets with anything in it, the state, ..., and the start as the 22nd.
  read -ra fields <<<"${line##*) }"
  [[ ${fields[0]} != [ZX] ]] || return 1
  born=${fields[19]}@$boot
}

# Sleeps, without a process to leave behind.
nap() {
  read -rt "$1" -u "$idle" || :
}
