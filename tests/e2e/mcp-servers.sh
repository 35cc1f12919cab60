#!/usr/bin/env bash
# Fetches real MCP servers into a directory: mcp-servers.sh DIR
# Those of npm need Node.js, those of PyPI Python 3 with venv. Made once; a second run does nothing.
# Exit code 75: they cannot be had.
set -euo pipefail
dir=$1
npm_servers=(
  @modelcontextprotocol/server-everything@2026.8.31
  @modelcontextprotocol/server-filesystem@2026.8.31
  @modelcontextprotocol/server-memory@2026.8.31
)
pypi_servers=(mcp-server-time==2026.10.19 mcp-server-git==2026.10.19)
done_mark="$dir/made ${npm_servers[*]//\//-} ${pypi_servers[*]}"
if [ -e "$done_mark" ]; then exit 0; fi
mkdir -p "$dir"
npm install --prefix "$dir" --no-audit --no-fund --silent "${npm_servers[@]}" || exit 75
python3 -m venv "$dir/venv" || exit 75
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "${pypi_servers[@]}" || exit 75
touch "$done_mark"
