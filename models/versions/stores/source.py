"""The source of a model that is kept in a store: the folder source of its mirror, and a thread that fills the mirror."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING, TypedDict, cast

from darkroom.models.errors import LoadFailed, quote
from darkroom.models.saved_model import FILE_NAME
from darkroom.models.versions.folder import Found
from darkroom.models.versions.stores.archive import NoRoom, Refused
from darkroom.models.versions.stores.bucket import Bucket, StoreFailed
from darkroom.models.versions.stores.mirror import part_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from darkroom.models.engine import LoadedModel
    from darkroom.models.versions.folder import FolderSource
    from darkroom.models.versions.policy import Policy
    from darkroom.models.versions.stores.bucket import Listing
    from darkroom.models.versions.stores.mirror import Mirror

_log = logging.getLogger("darkroom.models")
FIRST_LOOK_S = 8.0  # guess: the first scan waits so long for the store; a scan may take 10 s
MAX_PAUSE_S = 300.0  # guess: between two tries while a store is away; each pause is twice the last
JITTER = 0.2  # guess: of a pause, so that many servers do not ask a store at the same time
BUSY_S = 0.2  # guess: until a look for what another process, which is listing the store, has found
MEGABYTE = 1e6
STEPS = 10  # of the progress that is shown


class ListedVersion(TypedDict):
    """A version as a store listed it; `refused` says why it can't be mirrored, which is final unless room may come."""

    digest: str
    size: int
    missing: str
    is_settled: bool
    refused: str
    is_final: bool


class Kept(TypedDict):
    """What a mirror keeps of its store: the last listing, and when that was."""

    versions: dict[str, ListedVersion]
    listed_s: float


class StoreSource:
    """The versions that a store lists, as they are in its mirror. A Source: `scan` and `load` block.

    `scan` reports what the store listed last. A version that is mirrored is as the folder source finds it. One that is
    still to be fetched is not settled; one that can't be mirrored is, and its load says why. While the store is away,
    nothing changes: a version is gone only when a listing lacked it. Only versions that the policy picks are fetched, and
    those that it would pick without the ones that are not whole or failed.

    Args:
        address: as `check_address` returns it.
        mirror: of the address.
        folder: finds and loads the versions in the mirror's folder.
        policy: which versions are wanted.
        poll_s: between two looks at the store; each varies by a fifth.
        settle_s: a version whose last object is so old is whole; so is one that two looks found unchanged.
        lease_s: so long after a scan the versions that it found needed are kept from being deleted.

    Attributes:
        policy: see above; it may change.
        trouble: why the last look at the store or the last fetch failed; empty if neither did.
        fetched_bytes: what was fetched by this process.
    """

    def __init__(
        self,
        address: str,
        mirror: Mirror,
        folder: FolderSource,
        *,
        policy: Policy,
        poll_s: float,
        settle_s: float,
        lease_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.policy = policy
        self.trouble = ""
        self.fetched_bytes = 0
        self._address = address
        self._mirror = mirror
        self._bucket = Bucket(address)
        self._folder = folder
        self._poll_s, self._settle_s, self._lease_s = poll_s, settle_s, lease_s
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._next_s = 0.0
        self._tries = 0
        self._has_looked = threading.Event()
        self._failed: dict[int, str] = {}  # version → its digest when it could not be loaded or fetched
        self._loaded: set[int] = set()
        self._came: dict[int, int] = {}  # version → its bytes that are here, while it is being fetched

    def scan(self) -> Mapping[int, Found]:
        """See Source."""
        if (self._thread is None or not self._thread.is_alive()) and time.monotonic() >= self._next_s:
            self._thread = threading.Thread(target=self._look, name="store", daemon=True)
            self._thread.start()
        self._has_looked.wait(FIRST_LOOK_S)
        kept = self._kept()
        listed = {int(number): each for number, each in kept["versions"].items()}
        if not listed:
            where = f"a folder named by a number, with {FILE_NAME} in it"
            empty = f"the store has no version: {where}" if kept["listed_s"] else "the store has not answered yet"
            raise LoadFailed(self.trouble or empty)
        there = self._folder.scan() if self._mirror.versions() else {}
        wanted = set(self._wanted(listed))
        if wanted.issubset(self._loaded):  # the others are unloaded now
            self._loaded = wanted
        for version in wanted | self._loaded:
            self._mirror.need(version, self._lease_s)
        return {version: there.get(version) or self._to_come(version, each) for version, each in listed.items()}

    def load(self, version: int) -> LoadedModel:
        """See Source."""
        listed = self._kept()["versions"].get(str(version))
        if listed is not None and listed["refused"] and version not in self._mirror.versions():
            raise LoadFailed(listed["refused"])
        try:
            loaded = self._folder.load(version)
        except LoadFailed:
            self._failed[version] = listed["digest"] if listed is not None else ""
            raise
        self._failed.pop(version, None)
        self._loaded.add(version)
        return loaded

    def _kept(self) -> Kept:
        return cast("Kept", self._mirror.read() or {"versions": {}, "listed_s": 0.0})

    def _wanted(self, listed: Mapping[int, ListedVersion]) -> list[int]:
        """The versions to have here, newest first."""
        doubtful = {
            version
            for version, each in listed.items()
            if each["refused"]
            or each["missing"]
            or not each["is_settled"]
            or self._failed.get(version) == each["digest"]
        }
        return sorted({*self.policy.pick(listed), *self.policy.pick(listed.keys() - doubtful)}, reverse=True)

    def _to_come(self, version: int, listed: ListedVersion) -> Found:
        """A version that is not here yet, or can't be."""
        if listed["refused"]:
            return Found(listed["digest"])
        missing = listed["missing"]
        is_coming = listed["is_settled"] and not missing
        if is_coming:
            share = self._came.get(version, 0) * STEPS // max(1, listed["size"]) * (100 // STEPS)
            missing = f"{share} % of {listed['size'] / MEGABYTE:.1f} MB are fetched"
            missing += f"; {self.trouble}" if self.trouble else ""
        return Found(
            listed["digest"], is_settled=False, missing=missing, size=listed["size"],
            is_coming=is_coming and not self.trouble,
        )  # fmt: skip

    def _look(self) -> None:
        """One look at the store, in a thread: lists it and fetches what is wanted, unless another process is at it."""
        trouble = ""
        try:
            while True:
                with self._mirror.turn() as is_ours:
                    if is_ours:
                        self._refresh()
                if is_ours or self._mirror.read() is not None:
                    break
                time.sleep(BUSY_S)
        except LoadFailed as err:
            trouble = str(err)
        except OSError as err:
            trouble = f"--cache_dir can't be used for it: {err.strerror or err}"
        except Exception as err:  # noqa: BLE001 - a bug of ours, which only this model has met
            _log.exception("a look at a store failed")
            trouble = f"{type(err).__name__}: {quote(str(err))}"
        self._end_look(trouble)

    def _end_look(self, trouble: str) -> None:
        """Notes how a look ended, and when the next one is due. A change is logged."""
        self._tries = self._tries + 1 if trouble else 0
        pause_s = min(self._poll_s * 2**self._tries, max(MAX_PAUSE_S, self._poll_s))
        pause_s *= random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
        self._next_s = time.monotonic() + pause_s
        fields = {"address": self._address, "next_try_s": round(pause_s, 1)}
        if trouble and trouble != self.trouble:
            _log.error("a store can't be read", extra={"fields": fields | {"reason": trouble}})
        elif self.trouble and not trouble:
            _log.info("a store can be read again", extra={"fields": fields})
        self.trouble = trouble
        self._has_looked.set()

    def _refresh(self) -> None:
        """Lists the store and fetches what is wanted. To be called in a turn of the mirror."""
        kept, now_s = self._kept(), self._clock()
        listed = {int(number): each for number, each in kept["versions"].items()}
        is_fresh = kept["listed_s"] > now_s - self._poll_s / 2
        if is_fresh and all(self._is_here(version, listed[version]) for version in self._wanted(listed)):
            return  # another process has just been here
        listings = self._bucket.versions()
        entries = {
            str(version): self._entry(listing, kept["versions"].get(str(version)))
            for version, listing in listings.items()
        }
        kept = {"versions": entries, "listed_s": now_s}
        self._mirror.write(kept)
        self._has_looked.set()
        self._mirror.drop_parts(part_name(version, listing) for version, listing in listings.items())
        broken: StoreFailed | None = None
        listed = {int(number): each for number, each in entries.items()}
        for version in self._wanted(listed):
            entry, refused = listed[version], listed[version]["refused"]
            is_complete = entry["is_settled"] and not entry["missing"] and not entry["is_final"]
            if not is_complete or self._is_here(version, entry) or version not in self._wanted(listed):
                continue
            try:
                self._fetch(version, listings[version])
                self._failed.pop(version, None)
                entry["refused"] = ""
            except StoreFailed as err:  # the next version may come
                self._failed[version] = entry["digest"]
                broken = broken or err
            except Refused as err:
                entry["refused"], entry["is_final"] = str(err), not isinstance(err, NoRoom)
            if entry["refused"] != refused:
                self._mirror.write(kept)
        if broken is not None:
            raise broken

    def _entry(self, listing: Listing, before: ListedVersion | None) -> ListedVersion:
        """A version as the store lists it now; `before` is what was kept of it."""
        same = before if before is not None and before["digest"] == listing.digest else None
        refused, is_final = (same["refused"], same["is_final"]) if same else (listing.flaw, bool(listing.flaw))
        return {
            "digest": listing.digest,
            "size": listing.size,
            "missing": listing.missing,
            "is_settled": same is not None or listing.changed_s <= self._clock() - self._settle_s,
            "refused": refused,
            "is_final": is_final,
        }

    def _is_here(self, version: int, listed: ListedVersion) -> bool:
        """Whether a version is mirrored as it is listed."""
        here = self._mirror.versions().get(version)
        return here is not None and here.digest == listed["digest"]

    def _fetch(self, version: int, listing: Listing) -> None:
        """Fetches one version. See `Mirror.put`."""
        started_s = self._clock()
        fields = {"address": self._address, "version": version, "bytes": listing.size, "files": len(listing.objects)}
        _log.info("a version is being fetched", extra={"fields": fields})
        self._came[version] = 0

        def count(size: int, *, is_new: bool = True) -> None:
            self._came[version] += size
            self.fetched_bytes += size if is_new else 0

        try:
            self._mirror.put(version, listing, self._bucket, count)
        finally:
            del self._came[version]
        _log.info("a version is fetched", extra={"fields": fields | {"fetch_s": round(self._clock() - started_s, 2)}})
