#!/bin/sh
# Shows the launched runs: lanbot cloud status --help
exec "${PYTHON:-python3}" -m lanbot cloud status "$@"
