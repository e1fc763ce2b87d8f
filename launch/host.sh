#!/usr/bin/env bash
# What happens on each host, whoever starts it: ssh, gcloud, srun, a container.
#
#   host.sh install PLATFORM [CARD]         the environment; CARD: rows, where there are none
#   host.sh run STATE [OPTION...] -- ARG... one process of the run; its exit code is ours
#       --python=FILE    the environment's (default .venv/bin/python)
#       --secrets=FILE   NAME=value lines, mode 600; default: `secrets` in the state's folder, if any
#       --bucket=gs://B[/FOLDER] --mount=FOLDER   mounted before, with gcsfuse
#   host.sh stop STATE                      SIGTERM, and back when the process is gone
#   host.sh result STATE                    prints running, the last exit code, or none
#   host.sh receive STATE                   keeps its standard input as the run's secrets, mode 600
#   host.sh clean STATE                     stops what still runs, and forgets all of this
#
# STATE is a name: ~/.local/state/coderllm_launch/STATE/ holds `pids` (ours, Python's) while a
# process runs, and `code` once it is over. It outlives the connection, which a laptop may lose.
# SIGTERM, SIGINT and SIGHUP are passed on as SIGTERM, on which the run saves and ends with 42.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
stop_limit_s=${LAUNCH_STOP_LIMIT_S:-60}

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

find_python() {
  local name
  for name in python3.13 python3.12 python3.11 python3; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
    then
      printf '%s\n' "$name"
      return
    fi
  done
  # TPU VMs come with Ubuntu 22.04, whose own Python is 3.10 and which has 3.11 beside it.
  if ! { sudo -n apt-get update && sudo -n apt-get install --yes python3.11 python3.11-venv; } >&2
  then
    fail "no Python 3.11 to 3.13 on $(hostname) and none to be installed; install one by hand"
  fi
  printf 'python3.11\n'
}

install_all() {
  local platform=$1 card=${2:-} python
  python=$(find_python)
  "$python" scripts/install.py train --platform "$platform"
  # Prepared on every host from the same pinned packages: the same rows, and the run compares them.
  if [[ -n $card && ! -d data/training ]]; then
    .venv/bin/python -m coderllm_jax.prepare "--config=$card"
  fi
}

mount_bucket() {
  local bucket=${1#gs://} mount=$2 name folder
  if mountpoint -q "$mount"; then return; fi
  name=${bucket%%/*}
  folder=${bucket#"$name"}
  folder=${folder#/}
  command -v gcsfuse >/dev/null || install_gcsfuse
  sudo -n mkdir -p "$mount"
  sudo -n chown "$(id -u):$(id -g)" "$mount"
  # Other hosts write here too, so nothing is remembered about files; checkpoints rename folders.
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --rename-dir-limit=10000 \
    ${folder:+"--only-dir=${folder%/}"} "$name" "$mount"
}

install_gcsfuse() {
  local source key=/usr/share/keyrings/cloud.google.asc
  source="deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main"
  curl --fail --silent --show-error https://packages.cloud.google.com/apt/doc/apt-key.gpg \
    | sudo -n tee "$key" >/dev/null
  printf '%s\n' "$source" | sudo -n tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo -n apt-get update >&2
  sudo -n apt-get install --yes gcsfuse >&2
}

load_secrets() {
  local file=$1 line
  [[ -z $(find "$file" -perm /077) ]] || fail "$file may be read by others; chmod 600 $file"
  while IFS= read -r line || [[ -n $line ]]; do
    [[ -z $line || $line == \#* ]] || export "${line%%=*}=${line#*=}"
  done <"$file"
}

# Whether the process in $1 is one of ours and not another that got its number. (Without -ww, ps cuts
# lines at $COLUMNS.)
is_ours() {
  [[ -n $1 && $1 != "$$" && $(ps -ww -p "$1" -o args= 2>/dev/null) == *"$2"* ]]
}

stop() {
  local ours='' python='' waited=0
  [[ -e $state/pids ]] || return 0
  read -r ours python <"$state/pids" || true
  if is_ours "$ours" host.sh; then kill -TERM "$ours"; fi
  while is_ours "$ours" host.sh || is_ours "$python" coderllm_jax; do
    if ((waited >= stop_limit_s * 5)); then
      if is_ours "$python" coderllm_jax; then kill -KILL "$python"; fi
      sleep 1  # for the code to be written down
      if is_ours "$ours" host.sh; then kill -KILL "$ours"; fi
      break
    fi
    sleep 0.2
    waited=$((waited + 1))
  done
  rm -f "$state/pids"
}

run() {
  local python=.venv/bin/python secrets='' bucket='' mount='' option
  for option; do
    shift
    case $option in
      --python=*) python=${option#*=} ;;
      --secrets=*) secrets=${option#*=} ;;
      --bucket=*) bucket=${option#*=} ;;
      --mount=*) mount=${option#*=} ;;
      --) break ;;
      *) fail "host.sh run has no option $option; see the top of launch/host.sh" ;;
    esac
  done
  stop
  mkdir -p "$state"
  rm -f "$state/code"
  [[ -n $secrets || ! -e $state/secrets ]] || secrets=$state/secrets
  if [[ -n $secrets ]]; then load_secrets "$secrets"; fi
  if [[ -n $bucket ]]; then mount_bucket "$bucket" "$mount"; fi

  local child='' heard='' code
  trap 'heard=1; [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true' TERM INT HUP
  "$python" -m coderllm_jax.train "$@" &
  child=$!
  printf '%s %s\n' $$ "$child" >"$state/pids"
  [[ -z $heard ]] || kill -TERM "$child"
  while :; do  # a signal ends `wait` early, with a code that is not the run's
    heard=''
    code=0
    wait "$child" || code=$?
    [[ -n $heard ]] || break
  done
  printf '%s\n' "$code" >"$state/code"
  rm -f "$state/pids"
  exit "$code"
}

result() {
  local ours=''
  if [[ -e $state/pids ]]; then read -r ours _ <"$state/pids" || true; fi
  if is_ours "$ours" host.sh; then
    echo running
  elif [[ -e $state/code ]]; then
    cat "$state/code"
  else
    echo none
  fi
}

(($# >= 2)) || fail "host.sh needs a verb and a name; see the top of launch/host.sh"
verb=$1
shift
if [[ $verb = install ]]; then
  install_all "$@"
  exit
fi
# Tasks of Slurm may share a home folder.
state=${XDG_STATE_HOME:-$HOME/.local/state}/coderllm_launch/$1${SLURM_PROCID:+-$SLURM_PROCID}
shift
case $verb in
  run) run "$@" ;;
  stop) stop ;;
  result) result ;;
  receive)
    umask 077
    mkdir -p "$state"
    cat >"$state/secrets"
    ;;
  clean)
    stop  # what lost its connection still runs, and nobody could find it without `pids`
    rm -rf "$state"
    ;;
  *) fail "host.sh has no verb $verb; see the top of launch/host.sh" ;;
esac
