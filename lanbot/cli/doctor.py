"""lanbot doctor: what this machine has and supports."""

from lanbot import __version__
from lanbot.cli.shared import Mirror, UnsafeExec, make_options


def doctor(*, mirror: Mirror = None, unsafe_exec: UnsafeExec = False) -> None:
    """Show what this machine has and supports, and what is missing."""
    options = make_options(mirror, unsafe_exec)
    import platform
    import shutil

    import torch

    from lanbot.core import hardware
    from lanbot.core.console import size, table
    from lanbot.distributed.runtime import Runtime
    from lanbot.sandbox import sandbox

    place = Runtime.single()
    root = next(p for p in [options.runs.absolute(), *options.runs.absolute().parents] if p.exists())
    device = torch.cuda.get_device_name() if place.device.type == "cuda" else place.device.type
    rows = [
        ("lanbot", __version__),
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        ("device", f"{device}, {torch.get_num_threads()} threads"),
        ("computes in", str(place.dtype).removeprefix("torch.")),
        ("matmul", f"{hardware.matmul_ceiling(place.device, place.dtype) / 1e9:,.0f} GFLOP/s"),
        ("memory free", size(hardware.available())),
        ("keys and values", f"up to {size(hardware.for_cache())} while it generates"),
        ("disk free", f"{size(shutil.disk_usage(root).free)} at {options.runs}/"),
        ("mirror", "none, data comes from the hub" if options.mirror is None else str(options.mirror)),
        ("cache", f"{options.cache}{', offline' if options.offline else ''}"),
    ]
    print(table(rows, ("what", "is"), left=2))
    print("\n" + sandbox.doctor(options.unsafe_exec))
