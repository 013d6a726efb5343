"""Pictures that are broken, that are bombs, or that are no pictures: each is refused alone, in words."""

from __future__ import annotations

import random
import zlib
from functools import partial
from typing import TYPE_CHECKING

from loadtest.experiments import hostile
from loadtest.traffic.pictures import RequestBody, form_body, json_body, load, raw_body, row_body, truncated
from tests import pictures
from tests.faults.fault import OVERLOAD, Broken, Group, Setup
from tests.hostile import attacks, many_scans, png_with, wide_png

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.stage import Stage

GROUP = Group("pictures", Setup())
REQUESTS = 400
DIGITS = load("digits")


def poison(stage: Stage, percent: int) -> None:
    """Sends requests of which so many in a hundred hold a picture whose pixels are cut off, in every form."""
    rng = random.Random(percent)
    bad = [truncated(picture) for picture in DIGITS]
    good = DIGITS[3]
    bodies = [form_body((good, bad[0])), json_body((bad[1], good)), raw_body(bad[2]), row_body((good, bad[3], good))]
    acts: list[Callable[[], object]] = []
    for number in range(REQUESTS):
        if rng.randrange(100) < percent:
            acts.append(partial(stage.ask, bodies[number % len(bodies)], allowed=[400]))
        else:
            acts.append(partial(stage.check, stage.questions[number % len(stage.questions)]))
    stage.together(acts)


@GROUP.fault()
def poison_1_percent(stage: Stage) -> None:
    """1 % of 400 requests have a picture that the graph cannot decode; those get 400, their neighbours their answers."""
    poison(stage, 1)


@GROUP.fault(short=True)
def poison_10_percent(stage: Stage) -> None:
    """The same with 10 %."""
    poison(stage, 10)


@GROUP.fault()
def poison_50_percent(stage: Stage) -> None:
    """The same with 50 %."""
    poison(stage, 50)


@GROUP.fault(short=True)
def poison_only(stage: Stage) -> None:
    """The same with 100 %: only the checked clients send good pictures."""
    poison(stage, 100)


@GROUP.fault(short=True)
def mutations(stage: Stage) -> None:
    """500 requests of all forms with bytes changed, removed or repeated: pictures, base64, JSON, forms, heads, gzip."""
    done = hostile.run(stage.server.url, 500, 22, lambda: None)
    for (_, status), count in done.statuses.items():
        stage.faulty[status] += count
    if done.failures:
        raise Broken(done.failures[0])


@GROUP.fault(short=True, may_refuse=OVERLOAD)
def bombs(stage: Stage) -> None:
    """17 requests that cost much to read: 20,000 x 20,000 pixels, gzip, 2,500 scans, nests, 1,000,000 parts of a form."""
    for attack in attacks():
        headers = {"Content-Encoding": attack.encoding} if attack.encoding else {}
        said = stage.ask(RequestBody(attack.kind, attack.body, ()), **headers)
        if not 400 <= said.status < 500:
            raise Broken(f"{attack.name}: {said.status} {said.body[:200]!r}")


@GROUP.fault()
def many_bombs(stage: Stage) -> None:
    """100 PNGs of 20,000 x 20,000 pixels, PNGs with 200 inflating texts, and JPEGs of 2,500 scans, from 16 clients."""
    text = b"k\0\0" + zlib.compress(bytes(8_000_000), 9)
    bodies = [wide_png(), png_with(b"zTXt", text, 200), many_scans(2_500)]
    acts = [
        partial(stage.ask, RequestBody("application/octet-stream", body, ()), allowed=[200, 400, 413])
        for body in bodies
    ]
    stage.together(acts * 33)


@GROUP.fault(may_refuse=OVERLOAD)
def the_largest_pictures(stage: Stage) -> None:
    """16 JPEGs of 49 megapixels, just below the limit, at once: answered, or refused; memory is bounded by the batch."""
    large = pictures.picture(kind="JPEG", size=(7_000, 7_000), mode="L")
    acts = [partial(stage.ask, RequestBody("image/jpeg", large, ()), allowed=[200, 429, 503, 504])] * 16
    stage.together(acts)


@GROUP.fault()
def every_format(stage: Stage) -> None:
    """Formats that the graph does not decode, animations, 16-bit and palette pictures, and empty ones."""
    kinds = ("PNG", "GIF", "BMP", "WEBP", "TIFF", "ICO", "PPM")
    data = [pictures.picture(number, kind=kind) for number, kind in enumerate(kinds)]
    data += [pictures.picture(mode=mode) for mode in ("L", "1", "RGBA", "LA", "P")] + [b"", b"\0", DIGITS[0].data[:3]]
    for each in data * 5:
        stage.ask(RequestBody("image/png", each, ()), allowed=[200, 400])
