"""The files of one model on the hub. Its client resumes interrupted downloads; here every file is checked again."""
import hashlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nanochat.data import download
from nanochat.system.files import UserError

# The files that an import reads: weights, sizes, tokenizer. Of several steps only the newest is fetched.
WEIGHTS = re.compile(r"(?:.*/)?model_(\d{1,9})\.pt")
WANTED = re.compile(r"(?:.*/)?(?:tokenizer\.pkl|meta_\d{1,9}\.json|config\.json|tokenizer(?:_config)?\.json"
                    r"|[\w.-]+\.safetensors(?:\.index\.json)?)")


def is_repository(source: str) -> bool:
    """`is_repository("karpathy/nanochat-d32")` → True, where no such folder is here."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", source)) and not Path(source).exists()


def names_to_fetch(names: list[str]) -> list[str]:
    steps = {int(match[1]): name for name in names if (match := WEIGHTS.fullmatch(name))}
    if not steps:
        return [name for name in names if WANTED.fullmatch(name)]
    newest = f"{max(steps):06d}"
    return [steps[max(steps)], *(name for name in names if WANTED.fullmatch(name) and (
        newest in name if "meta_" in name else name.endswith("tokenizer.pkl")))]


def fetch(repo: str, folder: Path) -> Path:
    """Fetches the model's files into `folder`. UserError if the hub does not answer, or a file's SHA-256 is wrong."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=download.endpoint())
    info = _asked(repo, lambda: api.model_info(repo, files_metadata=True))
    siblings = {file.rfilename: file for file in info.siblings or []}
    names = names_to_fetch(list(siblings))
    if not names:
        raise UserError(f"{repo} on {download.endpoint()} has no model_*.pt and no config.json: it is not a nanochat")
    with download.alone_in(folder):
        for name in names:
            download_one = partial(api.hf_hub_download, repo, name, revision=info.sha, local_dir=folder)
            path = Path(_asked(repo, download_one))
            lfs = siblings[name].lfs
            if lfs and _sha256(path) != lfs.sha256:
                path.unlink()
                raise UserError(f"{name} of {repo} is not the file that the hub announced (SHA-256); run it again")
    return folder


def _asked(repo: str, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception as error:  # the client raises many types of errors; the user can do the same about all
        raise UserError(f"cannot fetch {repo} from {download.endpoint()}: {str(error).strip().splitlines()[0]:.160} "
                        f"({type(error).__name__}); run the command again, it continues where it stopped") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
