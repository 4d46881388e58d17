# shellcheck shell=bash
# What the scripts say to people.

say() {
  printf 'memoric: %s\n' "$*" || :
}

die() {
  printf 'memoric: %s\n' "$*" >&2 || :
  exit 1
}
