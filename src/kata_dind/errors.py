"""The whole error tree; a class stands for a reaction of the caller, and each names its exit code.

    KataDindError            1
    ├─ SpecError             2  the user asked for something wrong
    ├─ HostError             3  this host can't: ToolMissing, PermissionMissing, LockBusy, KvmUnavailable,
    │                           SeedUnfit, PlanOutdated
    ├─ SandboxError          4  BootFailed, GuestNotReady, DockerdFailed, VerdictFailed, AbnormalShutdown
    ├─ DataRootError         5  DataRootBusy, ForeignData, NoSpace, OverlayRefused
    ├─ BackendError          6  ContainerdError, KubernetesError (KubernetesConflict)
    ├─ ImageError            7  an image or guest OS that could not be built, pulled or read
    ├─ ProcessError          1  CommandFailed, CommandTimedOut, ProcessExited
    └─ WebhookError          1  an unusable admission review: HTTP 400, and no exit

`id` is stable and names the cause, `details` is evidence (argv, status, last log lines), `hint` a command to run or a
line to change.
"""

from __future__ import annotations

from typing import Any

UNKNOWN = "kata-dind.unknown"
"""The id of an error that came without one."""


class KataDindError(Exception):
    """Something could not be done; `summary` is one sentence in the user's words.

    `id` names the cause for programs and for the documentation, as `subject.what` (`vm.boot-failed`). It stays as it is
    when the sentence is mended, and is public.
    """

    exit_code = 1

    def __init__(self, summary: str, *, id: str, details: str = "", hint: str = "") -> None:
        super().__init__(summary)
        self.summary = summary
        self.id = id
        self.details = details
        self.hint = hint

    def as_fields(self) -> dict[str, Any]:
        """Return the error as it crosses a process border or `--json`: error, id, summary, details, hint, exit_code."""
        notes = getattr(self, "__notes__", [])
        return {
            "error": type(self).__name__,
            "id": self.id,
            "summary": self.summary,
            "details": "\n".join(filter(None, [self.details, *(f"note: {note}" for note in notes)])),
            "hint": self.hint,
            "exit_code": self.exit_code,
        }


def error_from_fields(fields: dict[str, Any]) -> KataDindError:
    """Rebuild an error from `as_fields`; a name this version does not know becomes a plain KataDindError."""
    classes = {cls.__name__: cls for cls in _descendants(KataDindError)}
    error = classes.get(str(fields.get("error")), KataDindError)(
        str(fields.get("summary", "unknown error")),
        id=str(fields.get("id", UNKNOWN)),
        details=str(fields.get("details", "")),
        hint=str(fields.get("hint", "")),
    )
    return error


def _descendants(cls: type[KataDindError]) -> list[type[KataDindError]]:
    children = cls.__subclasses__()
    return children + [below for child in children for below in _descendants(child)]


class SpecError(KataDindError):
    """The user asked for something wrong; the summary names the field, the value and what is allowed."""

    exit_code = 2


class HostError(KataDindError):
    """This host can't do it."""

    exit_code = 3


class ToolMissing(HostError):
    """A program that we build on is not installed."""


class PermissionMissing(HostError):
    """The user may not use a device, a namespace or a file."""


class LockBusy(HostError):
    """Another process holds a lock."""


class KvmUnavailable(HostError):
    """KVM was asked for, and no guest boots on it."""


class PlanOutdated(HostError):
    """A plan on file was made by another version of kata-dind, and this version would misread it."""


class SeedUnfit(HostError):
    """A seed can't be restored: it was made for another machine, or its files have changed."""


class SandboxError(KataDindError):
    """A sandbox failed."""

    exit_code = 4


class BootFailed(SandboxError):
    """The machine or its guest OS did not come up."""


class GuestNotReady(SandboxError):
    """The guest booted, but something in it did not answer in time."""


class DockerdFailed(SandboxError):
    """Dockerd ended, or does not answer."""


class VerdictFailed(SandboxError):
    """Dockerd answers, and yet the proof failed."""


class AbnormalShutdown(SandboxError):
    """The guest did not go down by itself; its file systems saw a power cut."""


class DataRootError(KataDindError):
    """There is no usable data root."""

    exit_code = 5


class DataRootBusy(DataRootError):
    """Another sandbox uses the data root."""


class ForeignData(DataRootError):
    """The data root contains data that is not ours, so it is not touched."""


class NoSpace(DataRootError):
    """The host or the data root is full."""


class OverlayRefused(DataRootError):
    """The overlay proof failed; the details name the step."""


class BackendError(KataDindError):
    """A backend's own service failed."""

    exit_code = 6


class ContainerdError(BackendError):
    """Containerd refused or failed."""


class KubernetesError(BackendError):
    """The API server refused or failed."""


class KubernetesConflict(KubernetesError):
    """Somebody else has made or changed an object since it was read; read it again, and try again."""


class ImageError(KataDindError):
    """An image, a guest OS or a kernel could not be built, pulled or read."""

    exit_code = 7


class ProcessError(KataDindError):
    """A tool failed; the room that ran it translates this."""


class CommandFailed(ProcessError):
    """A command ended with a status other than 0."""


class CommandTimedOut(ProcessError):
    """A command did not end within its deadline and was killed."""


class ProcessExited(ProcessError):
    """A program ended that should have continued to run."""


class WebhookError(KataDindError):
    """An admission review can't be used, and the API server is told so by HTTP 400.

    A pod that is refused is no error, but an answer.
    """
