"""Checkpoints of the Hugging Face Hub, by their ids."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from qtx.foundation.errors import QtxError
from qtx.interop.carried import NAMES
from qtx.interop.stored import CONFIG

# Neither pickles nor the other formats that a repository may have beside safetensors are fetched.
PATTERNS = [CONFIG, "*.safetensors", "*.safetensors.index.json", *NAMES]
PATTERNS += ["1_Pooling/*", "*_Normalize/*", "*_Dense/*.json"]
REASONS = {
    GatedRepoError: "its owner grants access: accept the terms on its page, then give a token by `hf auth login`",
    RepositoryNotFoundError: "there is no such model, or it is private: check its name, or give a token by "
    "`hf auth login`",
    RevisionNotFoundError: "there is no such revision: give a branch, a tag or a commit of it",
    HFValidationError: "that is no id: expected organization/name",
    LocalEntryNotFoundError: "it cannot be reached and was not fetched before: check the network, and HF_ENDPOINT and "
    "HF_HUB_OFFLINE if they are set",
}


def fetch(model: str, revision: str | None = None) -> tuple[Path, str]:
    """Fetches a model of the Hub into the client's cache; the environment's HF_ENDPOINT, HF_TOKEN and HF_HOME apply.

    Args:
      model: `"organization/name"`.
      revision: a branch, a tag or a commit; None: the main branch.

    Returns:
      the folder, which is not to be changed, and the commit that it holds.

    Raises:
      QtxError: if there is no such model, it is not accessible, or it has no safetensors.
    """
    named = model if revision is None else f"{model} at {revision}"
    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=PATTERNS))
    except Exception as error:  # from the client, its HTTP library, or a full disk
        reason = next((text for kind, text in REASONS.items() if isinstance(error, kind)), None)
        reason = reason or f"{type(error).__name__}: {' '.join(str(error).split())[:300]}; try again"
        raise QtxError(f"cannot fetch {named} from {constants.ENDPOINT}: {reason}") from error
    if not any(folder.glob("*.safetensors")):
        raise QtxError(
            f"{named} has no weights in safetensors: qtx reads these alone, as reading a pickle runs the code in it; "
            "ask its owner for them, or convert it by transformers' save_pretrained(folder) on a machine that may"
        )
    return folder, folder.name  # the cache names a snapshot by its commit
