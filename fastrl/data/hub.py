"""Files of data sets on the Hugging Face hub: download hub:OWNER/NAME/FILE once."""

from __future__ import annotations

import re

PREFIX = "hub:"
NAMED = re.compile(r"hub:(?P<repo>[^/@\s]+/[^/@\s]+)(?:@(?P<revision>[^/\s]+))?/(?P<file>\S+)")


def local_file(path: str) -> str:
    """Return the path of a file on disk; download a single file of the hub into the hub's own cache.

    path: hub:OWNER/NAME/FILE or, for a branch, tag or commit, hub:OWNER/NAME@REVISION/FILE; any other path
        is returned unchanged.
    Raises:
        ValueError: the path begins with hub: and has another form.
        FileNotFoundError: there is no such file, or the hub can't be reached.
    """
    if not path.startswith(PREFIX):
        return path
    named = NAMED.fullmatch(path)
    if named is None:
        raise ValueError(
            f"[data] path: expected hub:OWNER/NAME/FILE or hub:OWNER/NAME@REVISION/FILE, got {path!r}"
        )
    from huggingface_hub import hf_hub_download

    repo, revision, file = named.group("repo", "revision", "file")
    try:
        return str(hf_hub_download(repo, file, repo_type="dataset", revision=revision))
    except (OSError, ValueError) as error:  # the hub: no such data set or file, no access, no connection
        reason = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(
            f"[data] path: expected a file of a data set on the hub, got {path!r}: {reason}; without a "
            f"connection, run `hf download {repo} {file} --repo-type dataset --local-dir DIR` where there is "
            f"one, bring the file here, and name it"
        ) from error
