#!/usr/bin/env bash
# What action.yml runs: `action_check.sh install`, then `action_check.sh check`.
#
# Inputs come in the environment (GEOPROBE_*) and are hostile: each is one argument, never code, and
# nothing that is printed meanwhile is a command to the runner. Works in bash 3.2, as macOS has it.
set -euo pipefail

usage() {
  echo "::error title=geoprobe check::$1"
  output exit-code 2
  exit 2
}

output() {
  if [ -n "${GITHUB_OUTPUT:-}" ]; then
    printf '%s=%s\n' "$1" "$2" >>"$GITHUB_OUTPUT"
  fi
}

python_here() {
  if command -v python >/dev/null; then python "$@"; else python3 "$@"; fi
}

# -P: a folder of the repository that is called like a package of Python's is not that package.
install() {
  case "${GEOPROBE_VERSION:-}" in
  installed) ;;
  "") python_here -P -m pip install --disable-pip-version-check --quiet \
    --constraint "$GITHUB_ACTION_PATH/constraints.txt" "$GITHUB_ACTION_PATH" ;;
  *) python_here -P -m pip install --disable-pip-version-check --quiet -- "$GEOPROBE_VERSION" ;;
  esac
}

# Quotes are undone as a shell does it, and nothing else: no variable, command or pattern.
split() {
  python_here -I -c '
import os, shlex, sys
try:
    words = shlex.split(os.environ.get("GEOPROBE_ARGS", ""))
except ValueError:
    sys.exit(1)
sys.stdout.buffer.write(b"".join(os.fsencode(word) + b"\0" for word in words))
'
}

check() {
  local model="${GEOPROBE_MODEL:-}" baseline="${GEOPROBE_BASELINE:-}"
  local junit="${GEOPROBE_JUNIT:-}" markdown="${GEOPROBE_MARKDOWN:-}" fail_on="${GEOPROBE_FAIL_ON:-any}"
  [ -n "$model" ] || usage "The input 'model' is empty."
  [ -n "$baseline" ] || usage "The input 'baseline' is empty."
  case "$fail_on" in
  any | errors | never) ;;
  *) usage "The input 'fail-on' is none of any, errors and never." ;;
  esac
  local -a options=("--baseline=$baseline")
  local path
  for path in "$junit" "$markdown"; do
    # A line break would let a file's name write outputs of its own.
    case "$path" in *[[:cntrl:]]*) usage "The name of a file to write holds control characters." ;; esac
  done
  [ -z "$junit" ] || options+=("--junit=$junit")
  [ -z "$markdown" ] || options+=("--markdown=$markdown")

  local scratch word code=0
  local -a extra=()
  scratch="$(mktemp -d)"
  # shellcheck disable=SC2064  # the folder as it is called now
  trap "rm -rf '$scratch'" EXIT
  split >"$scratch/words" || usage "The input 'args' has a quote that is not closed."
  while IFS= read -r -d '' word; do
    [ "$word" != -- ] || usage "The input 'args' holds --, behind which nothing is an option."
    extra+=("$word")
  done <"$scratch/words"

  # Files from before this step are not its results.
  : >"$scratch/began"
  local quiet
  quiet="$(python_here -I -c 'import secrets; print(secrets.token_hex(16))' | tr -d '\r')"
  echo "::stop-commands::$quiet"
  geoprobe check ${extra[@]+"${extra[@]}"} "${options[@]}" -- "$model" 2>&1 || code=$?
  echo
  echo "::$quiet::"

  output exit-code "$code"
  if [ -n "$junit" ] && [ "$junit" -nt "$scratch/began" ]; then output junit "$junit"; fi
  if [ -n "$markdown" ] && [ "$markdown" -nt "$scratch/began" ]; then output markdown "$markdown"; fi
  conclude "$code" "$fail_on"
}

conclude() {
  local code="$1" fail_on="$2" said severity=error
  case "$code" in
  0) exit 0 ;;
  1) said="The model's geometry moved beyond what is expected." ;;
  2) said="An option or an input is wrong; the log says which." ;;
  3) said="The model cannot be compared with the baseline, or a reading is missing." ;;
  4) said="The model could not be measured." ;;
  *) said="geoprobe ended with exit code $code." ;;
  esac
  if [ "$fail_on" = never ] || { [ "$fail_on" = errors ] && [ "$code" = 1 ]; }; then severity=warning; fi
  echo "::$severity title=geoprobe check::$said"
  if [ "$severity" = warning ]; then exit 0; fi
  exit "$code"
}

case "${1:-}" in
install) install ;;
check) check ;;
*)
  echo "usage: action_check.sh install|check" >&2
  exit 2
  ;;
esac
