"""What lies outside of the code: folders of resources, libraries that may be missing, and their noise."""

import importlib
import importlib.util
from importlib.resources import files
from pathlib import Path
from types import ModuleType

from blendbench.errors import BlendbenchError, one_line


def check_installed(package: str, install: str) -> None:
    """Raise BlendbenchError, with what to type, if a library is not installed; imports nothing."""
    if importlib.util.find_spec(package) is None:
        raise BlendbenchError(f"{package} is not installed; type `pip install {install}`")


def library(module: str, install: str) -> ModuleType:
    """Import a library's module; raises BlendbenchError, with what to type, if it cannot be imported."""
    check_installed(module.partition(".")[0], install)
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        reason = one_line(str(error))
        raise BlendbenchError(f"{module} cannot be imported ({reason}); type `pip install -U {install}`") from error


def package_folder(name: str) -> Path:
    """Folder of a resource package, such as "blendbench.assets"."""
    return Path(str(files(name)))


def quiet() -> None:
    """Keep the libraries' own progress bars out of ours."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
