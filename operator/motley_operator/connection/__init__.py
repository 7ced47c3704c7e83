"""The wire: credentials, kinds and plain HTTP; `facts` reads through it, `apply` writes through it."""

from motley_operator.connection.client import SILENT, ApiError, Client, Sent
from motley_operator.connection.credentials import Credentials, load_credentials, own_namespace
from motley_operator.connection.kinds import (
    CUSTOM,
    KINDS,
    OLDER,
    OPTIONAL,
    OWNED,
    Kind,
    owned_kinds,
)

__all__ = [
    "CUSTOM",
    "KINDS",
    "OLDER",
    "OPTIONAL",
    "OWNED",
    "SILENT",
    "ApiError",
    "Client",
    "Credentials",
    "Kind",
    "Sent",
    "load_credentials",
    "own_namespace",
    "owned_kinds",
]
