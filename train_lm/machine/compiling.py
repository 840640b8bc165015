"""What `torch.compile` is asked for on each device, and whether it could answer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch


def compile_for(device: torch.device) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`torch.compile` for fixed shapes, with what pays on the device.

    Raises:
        ValueError: There is no compiler for the device.
    """
    if not can_compile(device):
        raise ValueError(
            f"expected a compiler for programs on {device} (g++ on a CPU, Triton on CUDA), found "
            "none: install it, or do without compilation"
        )
    # A C++ wrapper leaves Python's lock alone for a whole pass, so threads run side by side.
    options: dict[str, Any] = {"cpp_wrapper": True} if device.type == "cpu" else {}
    return lambda function: torch.compile(function, dynamic=False, options=options)


def can_compile(device: torch.device) -> bool:
    """Whether PyTorch finds what it compiles with: a C++ compiler, or Triton on CUDA."""
    if device.type == "cpu":
        return any(shutil.which(c) for c in (os.environ.get("CXX"), "g++", "clang++") if c)
    return bool(torch.utils._triton.has_triton())
