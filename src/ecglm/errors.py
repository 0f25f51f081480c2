"""What a user is shown: one line that names the file, the field and the mend."""

from __future__ import annotations


class EcglmError(Exception):
    """A user's mistake or an unusable input. The message is one line; the command line exits with status 2."""


class ConfigError(EcglmError):
    """A recipe or option that cannot be understood."""


class UnsafeInputError(EcglmError):
    """Input that could reach outside its folder or run code: refused, nothing read or written."""


class StaleOutputError(EcglmError):
    """An output exists already and was made with other settings or from other inputs."""


class TornOutputError(EcglmError):
    """An output is incomplete or damaged: a manifest is missing, or a checksum differs."""


class RejectedRecord(EcglmError):
    """A record that cannot be used. ``reason`` is a stable code for the reject log, ``detail`` is for people."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def nearest(word: str, candidates: object) -> str:
    """`` (did you mean 'x'?)`` for the closest candidate, or an empty string. For error messages."""
    import difflib

    found = difflib.get_close_matches(word, [str(c) for c in candidates], n=1, cutoff=0.5)  # type: ignore[attr-defined]
    return f" (did you mean '{found[0]}'?)" if found else ""


def hub_errors() -> tuple[type[Exception], ...]:
    """What a call to the Hugging Face hub raises: its answers, and what its HTTP client says where nobody answers."""
    from huggingface_hub.errors import HfHubHTTPError

    client = (kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
    return (OSError, ValueError, *client)  # type: ignore[arg-type]


def is_path(name: str) -> bool:
    """Whether a name can only be that of a folder, not of a repository on the hub (``owner/name``)."""
    return name.count("/") > 1 or name.startswith((".", "/", "~"))
