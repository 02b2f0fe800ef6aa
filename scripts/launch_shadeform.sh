#!/bin/sh
# Rents GPUs at Shadeform and runs phases on them: lanbot cloud launch --help
venv="$(dirname "$0")/../.venv/bin/python"
[ -x "$venv" ] || venv=python3
exec "${PYTHON:-$venv}" -m lanbot cloud launch --provider shadeform "$@"
