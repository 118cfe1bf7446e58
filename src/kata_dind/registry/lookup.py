"""The way in: configurations of images, remembered, each asked for once by however many want it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import logging
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from kata_dind.pod.lookups import Found
from kata_dind.pod.model import ImageConfig
from kata_dind.pod.policy import Registry
from kata_dind.registry.client import read_from
from kata_dind.registry.keyring import NO_CREDENTIALS, Credential, Keyring, fingerprint
from kata_dind.registry.once import FOREVER, Busy, Clock, Once
from kata_dind.registry.reach import Reach, Server
from kata_dind.registry.remote import RemoteImage, remote_image
from kata_dind.registry.transport import Deadline, Session
from kata_dind.registry.unread import Unread

TAG_SECONDS = 300.0
"""How long an answer about a tag holds, which may be moved."""
FAILURE_SECONDS = 30.0
"""How long a failure is believed, and a host that does not answer is left alone."""
_MOST_KEPT = 2048
_MOST_AT_ONCE = 16

logger = logging.getLogger(__name__)

_Key = tuple[str, str, bytes]
_Answer = ImageConfig | Unread


@dataclass(frozen=True, slots=True)
class Asked:
    """Images that are known, or asked for by now."""

    deadline: Deadline
    _answers: Mapping[str, Future[_Answer]]
    _refused: Mapping[str, str]
    _give_up: Callable[[str], None]
    """Is told the reference of what is late."""
    has_begun: bool
    """Whether a registry is asked for some of them from now on, which may have answered already."""

    def pending(self) -> Sequence[Future[_Answer]]:
        """Return what is still to come."""
        return [answer for answer in self._answers.values() if not answer.done()]

    def found(self, late: str = "") -> Found:
        """Return what is known by now; `late` is a clause for what is still to come."""
        late = late or f"its registry did not answer in full in {self.deadline.seconds:g} s"
        configs: dict[str, ImageConfig] = {}
        unread = dict(self._refused)
        for reference, future in self._answers.items():
            answer = future.result() if future.done() else None
            if isinstance(answer, ImageConfig):
                configs[reference] = answer
            else:
                unread[reference] = answer.because if answer else late
                if answer is None and not self.deadline.left_seconds():
                    self._give_up(reference)
        return Found(configs, unread)


def _learn_nothing(reference: str) -> None:
    pass


class Lookup:
    """Asks registries by one policy. May be used by many threads; what it has learnt ends with it."""

    def __init__(self, registry: Registry, *, clock: Clock = time.monotonic) -> None:
        self._registry = registry
        self._reach = Reach(registry)
        self._clock = clock
        self._answers: Once[_Key, _Answer] = Once(most_at_once=_MOST_AT_ONCE, most_kept=_MOST_KEPT, clock=clock)
        self._silent: dict[str, tuple[float, str]] = {}
        """Registries that did not answer: until when they are left alone, and why."""

    def deadline(self) -> Deadline:
        """Return when what begins now for a pod has to end."""
        return Deadline(self._registry.timeout_seconds)

    def find(self, references: Iterable[str], keyring: Keyring = NO_CREDENTIALS) -> Found:
        """Return the configurations of images, all within the time that the policy gives to one pod."""
        asked = self.ask(references, keyring, self.deadline())
        concurrent.futures.wait(asked.pending(), timeout=asked.deadline.left_seconds())
        return asked.found()

    def ask(self, references: Iterable[str], keyring: Keyring, deadline: Deadline) -> Asked:
        """Ask for what isn't known or under way, without waiting for anything."""
        answers: dict[str, Future[_Answer]] = {}
        refused: dict[str, str] = {}
        has_begun = False
        for reference in dict.fromkeys(references):
            try:
                answers[reference], is_new = self._asked(reference, keyring, deadline)
                has_begun |= is_new
            except Unread as failure:
                refused[reference] = failure.because
        # Who has spent the time on pull secrets learns nothing of the registry.
        give_up = self._give_up if deadline.is_fresh() else _learn_nothing
        return Asked(deadline, answers, refused, give_up, has_begun)

    def _asked(self, reference: str, keyring: Keyring, deadline: Deadline) -> tuple[Future[_Answer], bool]:
        """Return what has the answer or will have it, and whether nobody had asked before."""
        image = remote_image(reference)
        if image is None:
            raise Unread("it is not the reference of an image in a registry")
        if refusal := self._reach.refusal(image):
            raise Unread(refusal)
        credentials = keyring.credentials_for(image)
        # Who may not pull an image learns nothing of what others have asked for with credentials of their own.
        key = (image.name, image.wanted, fingerprint(credentials))
        known = self._answers.find(key)
        if known is not None and known.done():
            return known, False
        until, because = self._silent.get(image.registry, (0.0, ""))
        if self._clock() < until:
            raise Unread(because)
        if known is not None:
            return known, False
        try:
            return self._answers.begin(key, functools.partial(self._answer, image, credentials, deadline)), True
        except Busy as busy:
            raise Unread(f"it can't be looked up now ({busy})") from None

    def _answer(
        self, image: RemoteImage, credentials: tuple[Credential, ...], deadline: Deadline
    ) -> tuple[_Answer, float]:
        has_time = deadline.is_fresh()
        try:
            return self._read(image, credentials, deadline), FOREVER if image.has_digest else TAG_SECONDS
        except Unread as failure:
            if failure.is_late and not has_time:
                return failure.with_traceback(None), 0.0
            if failure.is_hosts:
                self._leave_alone(image.registry, failure.because)
            return failure.with_traceback(None), FAILURE_SECONDS
        except Exception:
            # A mistake of ours, for which no pod may have to wait.
            logger.exception("the lookup of %s has failed", image.name)
            return Unread("kata-dind itself has failed at it"), FAILURE_SECONDS

    def _give_up(self, reference: str) -> None:
        """Let nobody else wait for what is late: a name server may keep a thread for much longer than a lookup."""
        image = remote_image(reference)
        assert image is not None
        self._leave_alone(image.registry, f"{image.registry} does not answer")

    def _leave_alone(self, host: str, because: str) -> None:
        now = self._clock()
        kept = self._silent if len(self._silent) < _MOST_KEPT else {}
        # A new one each time, since other threads read the old one.
        self._silent = {
            **{each: entry for each, entry in kept.items() if now < entry[0]},
            host: (now + FAILURE_SECONDS, because),
        }

    def _read(self, image: RemoteImage, credentials: tuple[Credential, ...], deadline: Deadline) -> ImageConfig:
        *mirrors, own = self._reach.servers(image)
        for mirror in mirrors:
            # One that hangs must leave time for the others.
            half = Deadline(deadline.left_seconds() / 2)
            with contextlib.suppress(Unread):
                return self._read_from(mirror, image, credentials, half)
        return self._read_from(own, image, credentials, deadline)

    def _read_from(
        self, server: Server, image: RemoteImage, credentials: tuple[Credential, ...], deadline: Deadline
    ) -> ImageConfig:
        with Session(
            deadline,
            tls=lambda: self._tls,
            refused_address=functools.partial(self._reach.refused_address, image=image),
            is_plain=self._reach.is_plain,
        ) as session:
            architecture = self._registry.architecture
            return read_from(server, image, session, credentials=credentials, architecture=architecture)

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext:
        # To read the certificates of this machine takes as long as a lookup.
        return ssl.create_default_context()
