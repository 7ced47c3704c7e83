"""Reading a text file that somebody named on the command line, packed or not."""

from __future__ import annotations

import gzip
import sys
import zlib
from pathlib import Path

from motley_operator.cli.output import InputError


def read_text(name: str) -> str:
    """The text of a file, unpacked where it is gzip by its first bytes or its name; "-" is stdin.

    Raises: InputError naming the file and the fix.
    """
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        if raw[:2] == b"\x1f\x8b" or name.endswith(".gz"):
            raw = gzip.decompress(raw)
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(name, f"not UTF-8 text ({error.reason}); write it in UTF-8") from error
    except EOFError as error:
        raise InputError(name, "the gzip file is cut off; compress it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(name, f"not a sound gzip file ({error}); compress it again") from error
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise InputError(name, f"{reason}; name a readable file") from error
