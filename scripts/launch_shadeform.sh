#!/bin/sh
# Rents GPUs at Shadeform and runs phases on them: lanbot cloud launch --help
exec "${PYTHON:-python3}" -m lanbot cloud launch --provider shadeform "$@"
