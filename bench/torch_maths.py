"""Work around a fault of torch on x86: the first exp, cos, log ... of a process can come out wrong.

torch hands these to MKL, which picks a kernel for each function on its first call, without a lock. When several threads
make that first call together, one of them can run a low-accuracy kernel over its share: errors of thousands of ulp,
once, in one process out of about a hundred (pytorch issue 188792; seen here as a reference result off by 5e-5).
"""

from __future__ import annotations

import torch

_FUNCTIONS = (
    *(torch.exp, torch.exp2, torch.expm1, torch.log, torch.log2, torch.log1p, torch.sqrt, torch.rsqrt),
    *(torch.cos, torch.sin, torch.tan, torch.acos, torch.asin, torch.atan, torch.tanh, torch.sigmoid),
    *(torch.erf, torch.erfc, torch.erfinv, torch.lgamma),
)


def settle_torch_maths() -> None:
    """Make the first call of each function here, on one element and so on one thread. Microseconds; safe to repeat."""
    for dtype in (torch.float32, torch.float64):
        half = torch.full((1,), 0.5, dtype=dtype)
        for function in _FUNCTIONS:
            function(half)
