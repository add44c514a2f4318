#!/usr/bin/env bash
# Sets up one worker of a TPU and trains. tpu_vm.sh runs it on all workers: BUCKET or '', arguments.
set -euo pipefail
bucket=$1
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The images have Python 3.10, which is too old; uv installs its own.
export PATH=$HOME/.local/bin:$PATH
command -v uv >/dev/null || python3 -m pip install --user --quiet uv
[[ -d ~/colorize_venv ]] || uv venv --quiet --python 3.12 ~/colorize_venv
# shellcheck disable=SC1090
source ~/colorize_venv/bin/activate
uv pip install --quiet '.[tpu]'

if [[ $bucket ]] && ! mountpoint -q /mnt/colorize; then
  if ! command -v gcsfuse >/dev/null; then
    google=https://packages.cloud.google.com/apt
    key=/usr/share/keyrings/cloud.google.asc
    curl -fsS "$google/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] $google gcsfuse-$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get -qq update
    sudo apt-get -qq install -y gcsfuse
  fi
  sudo mkdir -p /mnt/colorize
  sudo chown "$(id -u)" /mnt/colorize
  # A checkpoint is completed by renaming its folder, which gcsfuse refuses by default.
  gcsfuse --implicit-dirs --rename-dir-limit=100000 "$bucket" /mnt/colorize
fi
exec python -m colorize_jax.main "$@"
