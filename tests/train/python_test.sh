#!/bin/bash
# Runs Python tests with Debian's interpreter, whose numpy and torch packages they use.
set -eu
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive PYTHONDONTWRITEBYTECODE=1
exec /usr/bin/python3 -W ignore -m unittest -v "$@"
