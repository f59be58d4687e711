"""The files of a job's working directory that Ray will upload, listed before the upload."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

from reid_ray.errors import ConfigError

LIMIT_MB = 100
"""Largest request that a Ray dashboard accepts; lower than Ray's own limit of 512 MB."""

SECRETS = (
    *(".env", ".env.*", "*.env", ".envrc", ".netrc", ".pypirc", ".git-credentials", ".git", ".ssh/", ".aws/"),
    *(".azure/", ".kube/", ".gnupg/", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa*", "id_ecdsa*"),
    *("id_ed25519*", "auth_token", "credentials", "credentials.json", "*service_account*.json"),
)
"""Never sent: environments, keys, credentials, and the history of the repository, which may hold any of them."""

EXCLUDES = ("/runs/", "*.egg-info/", ".mypy_cache/", ".pytest_cache/", ".ruff_cache/", *SECRETS)
"""Left out besides what Ray leaves out and what .gitignore and .rayignore name. Runs hold checkpoints."""

N_NAMED = 5
"""Number of largest files to name in a message."""


@dataclass(frozen=True)
class WorkingDir:
    """Files that Ray would upload.

    Attributes:
        folder: absolute.
        files: path below the folder and bytes of each, in order of path.
        left_out: top-level entries that are not uploaded at all.
    """

    folder: Path
    files: tuple[tuple[str, int], ...]
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path) -> WorkingDir:
        """List a folder as Ray does, with its default excludes, `EXCLUDES`, .gitignore and .rayignore.

        Raises:
            ConfigError: there is no such folder.
        """
        folder = folder.expanduser().absolute()
        if not folder.is_dir():
            raise ConfigError(f"The working directory {folder} is not a folder; pass another --working-dir.")
        files: list[tuple[str, int]] = []

        def note(path: Path) -> None:
            if path.is_file():
                files.append((path.relative_to(folder).as_posix(), path.stat().st_size))

        patterns = [*get_runtime_env_default_excludes(), *EXCLUDES]
        # Ray's own function, to get exactly what Ray uploads. It is private; Ray's version is pinned.
        _dir_travel(
            folder,
            [_get_excludes(folder, patterns)],
            note,
            include_gitignore=True,
            logger=logging.getLogger(__name__),
        )
        sent = {path.partition("/")[0] for path, _ in files}
        left_out = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir() if entry.name not in sent)
        return cls(folder, tuple(sorted(files)), tuple(left_out))

    @cached_property
    def size(self) -> int:
        """Bytes, before Ray compresses them."""
        return sum(size for _, size in self.files)

    def check(self) -> None:
        """Raise `ConfigError` if the cluster would refuse it. Compression is ignored: images do not compress."""
        if self.size > LIMIT_MB * 2**20:
            raise ConfigError(
                f"The working directory {self.folder} holds {megabytes(self.size)} in {len(self.files)} files, but a "
                f"cluster accepts {LIMIT_MB} MB; the largest are {self._largest()}. List what the job does not need in "
                f".rayignore, and put data on storage that the cluster sees."
            )

    def describe(self) -> str:
        """One line: total size, largest files, excluded entries."""
        largest = f"; largest: {self._largest()}" if self.files else ""
        left_out = f"; left out: {', '.join(self.left_out)}" if self.left_out else ""
        return f"{self.folder}: {len(self.files)} files, {megabytes(self.size)} of {LIMIT_MB} MB{largest}{left_out}"

    def _largest(self) -> str:
        by_size = sorted(self.files, key=lambda file: (-file[1], file[0]))
        return ", ".join(f"{path} ({megabytes(size)})" for path, size in by_size[:N_NAMED])


def megabytes(n_bytes: int) -> str:
    """`1.2 MB`; small files in kB."""
    return f"{n_bytes / 2**20:.1f} MB" if n_bytes >= 2**20 / 10 else f"{n_bytes / 2**10:.1f} kB"
