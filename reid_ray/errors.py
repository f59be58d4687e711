"""Errors that a user can fix. Each has a one-line message: what is wrong, where, and what to do."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the input or the setup. The command line prints it without a traceback and exits with code 2."""


class ConfigError(UserError):
    """A recipe, key or value that cannot be used."""


class MethodError(UserError):
    """A method whose stages, modules or optimizers are inconsistent; addressed to authors of methods."""


class DataError(UserError):
    """A dataset, table or image that is invalid or unreadable."""


class LoaderError(DataError):
    """An image that one training worker could not read; the other workers do not know about it."""


class OutOfMemoryError(UserError):
    """One process ran out of memory; the other processes do not know about it."""


class WeightsError(UserError):
    """A weights file that does not match the network, or cannot be read safely."""


class ExportError(UserError):
    """An exported model that cannot be written or read, or whose features are not those of its run."""


class RunError(UserError):
    """A run directory that cannot be created, read or resumed."""


class DivergedError(RunError):
    """A loss that is not finite."""


class StorageError(UserError):
    """An object store that does not answer or refuses: bucket, credentials, endpoint. Perhaps in one process only."""


class DegenerateLabelsError(UserError):
    """Clustering gave no usable labels for longer than the configuration allows."""
