"""What the tests of kernels for NVIDIA Hopper share."""

import os
import subprocess
import sys

import pytest
import torch

SHARED = 227 * 1024
"""Bytes that a program can have."""

on_hopper = pytest.mark.skipif(
    not (torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9), reason="needs an NVIDIA Hopper"
)


def shared_bytes(module: str) -> list[int]:
    """Of the kernels that a module of this folder compiles for compute capability 9, in a process of its own without the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", f"tests.ops.{module}"]
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return [int(line) for line in said.split()]
