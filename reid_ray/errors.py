"""Errors that a user can mend. Each is one sentence or two: what is wrong, where, and what to do."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the input or the set-up. The command line prints it without a traceback and exits with 2."""


class ConfigError(UserError):
    """A recipe, key or value that cannot be used."""


class MethodError(UserError):
    """A method whose stages, modules or optimizers do not fit together; for those who write methods."""


class DataError(UserError):
    """A dataset, table or image that cannot be read as what it claims to be."""


class LoaderError(DataError):
    """An image that one training worker met and could not read; the other workers do not know of it."""


class OutOfMemoryError(UserError):
    """Memory that gave out in one process; the others do not know of it."""


class WeightsError(UserError):
    """A weights file that does not fit the network, or cannot be read safely."""


class RunError(UserError):
    """A run directory that cannot be created, read or resumed."""


class DivergedError(RunError):
    """A loss that is no longer a number."""


class StorageError(UserError):
    """An object store that does not answer or refuses: bucket, credentials, endpoint. Other processes may not know."""


class DegenerateLabelsError(UserError):
    """Clustering has given nothing to train on for longer than the configuration allows."""
