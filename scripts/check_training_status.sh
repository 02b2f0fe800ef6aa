#!/bin/sh
# Shows the launched runs: lanbot cloud status --help
venv="$(dirname "$0")/../.venv/bin/python"
[ -x "$venv" ] || venv=python3
exec "${PYTHON:-$venv}" -m lanbot cloud status "$@"
