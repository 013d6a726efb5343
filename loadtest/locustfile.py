"""Locust users of a Darkroom server: one picture in each dialect, 32 at once, a broken one; all answers checked.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8500               # its page, on port 8089
    locust … --headless --users 16 --run-time 1m --p99-ms 300                   # a gate: exit code 1 over the SLO
    locust … --headless --users 64 --run-time 1m --arrival-rate 80              # constant arrivals, no think-time
    locust … --mix json=1,binary=1                                              # only these, one as often as the other
    locust -f loadtest/locustfile.py,loadtest/shapes.py … --shape spike         # users that come and go: or step

Every flag of ours is also a variable, LOADTEST_P99_MS and so on. Needs the packages of the Locust image, no others.
"""
# Locust is Any to mypy (pyproject.toml), hence its decorators and its user class too:
# mypy: disable-error-code="untyped-decorator,misc"

import random
import sys
import time
from argparse import ArgumentParser
from typing import Any

from locust import FastHttpUser, events, task
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment
from locust.exception import RescheduleTask

from loadtest.measure.server_timing import TimingStatistics
from loadtest.measure.tables import number, table
from loadtest.traffic.answers import Expectations, NoAnswer, error_text, expect
from loadtest.traffic.pictures import (
    KINDS,
    RequestBody,
    binary_body,
    cycle,
    form_body,
    json_body,
    load,
    raw_body,
    row_body,
    truncated,
)

chance = random.Random()  # noqa: S311 - arrivals and choices, no secrets
MANY_ROWS = 32  # the largest batch that a server makes by default
BROKEN = "broken"
NAMES = {  # of --mix, and as the tables tell them
    "json": "json 1 picture",
    "form": "form 1 picture",
    "raw": "raw 1 picture",
    "row": "row 1 picture",
    "binary": "binary 1 picture",
    "many": f"json {MANY_ROWS} pictures",
    BROKEN: "json broken picture",
}
MIX = "json=12,form=3,raw=2,row=2,binary=2,many=1"
FLAGS = (
    ("pictures", str, "photos", "kind of pictures: " + " or ".join(KINDS)),
    ("model", str, "default", "model_name that is asked for"),
    ("think_s", float, 0.1, "mean pause of a user between an answer and its next request"),
    ("arrival_rate", float, 0.0, "requests per second of all users together, whatever the answers take; 0: think-time"),
    ("mix", str, MIX, "kinds of requests and how often: " + ", ".join(NAMES)),
    ("broken_share", float, 0.01, "share of requests that send half a JPEG and must get 400"),
    ("p99_ms", float, 0.0, "SLO: p99 of one-picture requests; 0 promises nothing"),
    ("many_p99_ms", float, 0.0, f"SLO: p99 of {MANY_ROWS}-picture requests; 0 promises nothing"),
    ("failures", float, 0.0, "SLO: largest share of requests that may fail, wrong answers among them"),
)


@events.init_command_line_parser.add_listener
def add_flags(parser: ArgumentParser) -> None:
    """Our flags beside Locust's own, each with its variable."""
    for name, kind, default, text in FLAGS:
        flag, variable = "--" + name.replace("_", "-"), "LOADTEST_" + name.upper()
        parser.add_argument(flag, type=kind, default=default, env_var=variable, help=text)


class Payloads:
    """Every body that the run sends, made once, and the answer that each must get."""

    def __init__(self, host: str, kind: str, model: str) -> None:
        pictures = load(kind)
        self.expectations: Expectations = expect(host, pictures, model=model)
        groups = [cycle(pictures, start=start, rows=MANY_ROWS) for start in range(len(pictures))]
        self.bodies = {
            "json": [json_body((picture,), model=model) for picture in pictures],
            "form": [form_body((picture,), model=model) for picture in pictures],
            "raw": [raw_body(picture, model=model) for picture in pictures],
            "row": [row_body((picture,), model=model) for picture in pictures],
            "binary": [binary_body((picture,), model=model) for picture in pictures],
            "many": [json_body(group, model=model) for group in groups],
            BROKEN: [json_body((truncated(picture),), model=model) for picture in pictures],
        }


def read_mix(text: str) -> dict[str, float]:
    """`json=3,binary=1` as weights by kind.

    Raises:
        KeyError: a kind that there is not.
        ValueError: a weight that is no positive number.
    """
    weights = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        weights[name] = float(weight or 1)
        if name not in NAMES:
            raise KeyError(f"--mix: there is no {name!r}; there are: {', '.join(NAMES)}")
        if weights[name] <= 0:
            raise ValueError(f"--mix: {name}: {weight} isn't a positive number")
    return weights


class RunState:
    """The state of one test run; made at its start, read at its end."""

    payloads: Payloads | None = None
    explained = TimingStatistics()
    kinds: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()


def is_master(environment: Environment) -> bool:
    """Whether the users of this run live in other processes."""
    return type(environment.runner).__name__ == "MasterRunner"


@events.test_start.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """Ask for each picture alone and make all bodies; without answers there is nothing to test."""
    options = environment.parsed_options
    RunState.explained = TimingStatistics()
    if is_master(environment):
        return  # its workers ask for themselves
    try:
        mix = read_mix(options.mix)
        RunState.kinds, RunState.weights = tuple(mix), tuple(mix.values())
        RunState.payloads = Payloads(environment.host or "", options.pictures, options.model)
    except (NoAnswer, KeyError, ValueError) as err:
        print(f"loadtest: cannot begin: {err}", file=sys.stderr)
        environment.process_exit_code = 2
        if environment.runner is not None:
            environment.runner.quit()
        return
    known = ", ".join(f"{name} → {index}" for name, index in RunState.payloads.expectations.table.items())
    print(f"loadtest: expected answers: {known}")
    if not RunState.payloads.expectations.tells_apart:
        print("loadtest: the model gives every picture the same class: swapped answers cannot be seen", file=sys.stderr)


class PictureUser(FastHttpUser):
    """Sends a picture, waits for the answer, checks it, pauses."""

    connection_timeout = 10.0
    network_timeout = 35.0  # longer than the server's own --request_timeout_ms, which says why

    def on_start(self) -> None:
        """Begin at a random place of the first turn, so that the users do not march in step."""
        self.turn_s = time.monotonic() + chance.uniform(0, self._turn_length_s())

    def wait_time(self) -> float:
        """Exponential think-time, or, with an arrival rate, what is left of this user's turn.

        Turns are counted from the first one: a late answer does not lower the rate, unless it lasts longer than a turn.
        """
        options = self.environment.parsed_options
        if options.arrival_rate:
            self.turn_s += self._turn_length_s()
            return max(0.0, self.turn_s - time.monotonic())
        return chance.expovariate(1 / options.think_s) if options.think_s else 0.0

    def _turn_length_s(self) -> float:
        options = self.environment.parsed_options
        return (options.num_users or 1) / options.arrival_rate if options.arrival_rate else 0.0

    @task
    def ask(self) -> None:
        """One request of the mix; once in a while half a picture."""
        if chance.random() < self.environment.parsed_options.broken_share:
            self.send_broken()
        else:
            (kind,) = chance.choices(RunState.kinds, RunState.weights)
            self.send(NAMES[kind], chance.choice(self.payloads.bodies[kind]))

    @property
    def payloads(self) -> Payloads:
        """What the run sends; there since its start."""
        if RunState.payloads is None:
            raise RescheduleTask
        return RunState.payloads

    def send(self, name: str, body: RequestBody) -> None:
        """One request, whose answer must be 200 and say of every picture what the server said of it alone."""
        with self.post(name, body) as answer:
            RunState.explained.add(name, (answer.headers or {}).get("Server-Timing"))
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code} {error_text(answer.content or b'')}")
            elif not self.payloads.expectations.agrees(body, answer.content):
                answer.failure("200 with a wrong answer")  # one text, so that Locust counts them together
            else:
                answer.success()

    def send_broken(self) -> None:
        """Half a JPEG, which must be refused as the client's fault, by its index."""
        with self.post(NAMES[BROKEN], chance.choice(self.payloads.bodies[BROKEN])) as answer:
            said = error_text(answer.content or b"")
            if answer.status_code == 400 and "images[0]" in said:
                answer.success()
            else:
                answer.failure(f"{answer.status_code}, wanted 400 naming images[0]: {said}")

    def post(self, name: str, body: RequestBody) -> ResponseContextManager:
        """A POST, answered into a context that decides whether it went well.

        With an arrival rate its time counts from its turn: what an earlier answer kept it waiting is not left out.
        """
        is_paced = self.environment.parsed_options.arrival_rate > 0
        late_s = max(0.0, time.monotonic() - self.turn_s) if is_paced else 0.0
        answer = self.client.post(body.path, data=body.data, headers=body.headers, name=name, catch_response=True)
        answer.request_meta["response_time"] += late_s * 1000
        return answer


@events.report_to_master.add_listener
def report(data: dict[str, Any], **_: Any) -> None:
    """What the server told this worker since the last report."""
    data["explained"], RunState.explained = RunState.explained.as_pairs(), TimingStatistics()


@events.worker_report.add_listener
def take_report(data: dict[str, Any], **_: Any) -> None:
    """What the server told a worker."""
    RunState.explained.merge(data["explained"])


@events.test_stop.add_listener
def finish(environment: Environment, **_: Any) -> None:
    """Tells at the end of the run, but for a headless master: its workers' last reports come when they quit."""
    if not (is_master(environment) and environment.parsed_options.headless):
        tell(environment)


def tell(environment: Environment) -> None:
    """Prints the table of the run: what the client saw and what the server said of it."""
    heads = (
        "request",
        "sent",
        "failed",
        "p50 ms",
        "p99 ms",
        *("queue p50", "queue p99", "execute p50", "execute p99"),
        "batch",
    )
    rows = []
    for name in NAMES.values():
        seen = environment.stats.get(name, "POST")
        if not seen.num_requests:
            continue
        latency = [number(seen.get_response_time_percentile(share)) for share in (0.5, 0.99)]
        server = [
            number(times[name].quantile_ms(share))
            for times in (RunState.explained.queue, RunState.explained.execute)
            for share in (0.5, 0.99)
        ]
        batch = number(RunState.explained.mean_batch(name))
        rows.append([name, str(seen.num_requests), str(seen.num_failures), *latency, *server, batch])
    print(f"\n{table(heads, rows)}\n", flush=True)


@events.quitting.add_listener
def judge(environment: Environment, **_: Any) -> None:
    """The exit code: 0 inside the SLO, 1 over it, 2 where the run could not begin."""
    if is_master(environment) and environment.parsed_options.headless:
        tell(environment)
    if environment.process_exit_code == 2:
        return
    broken = broken_promises(environment)
    for text in broken:
        print(f"loadtest: over the SLO: {text}", file=sys.stderr)
    environment.process_exit_code = 1 if broken else 0


def broken_promises(environment: Environment) -> list[str]:
    """Each promise of the flags that the run did not keep; none where it kept them all."""
    options, total = environment.parsed_options, environment.stats.total
    broken = [] if total.num_requests else ["nothing was sent"]
    if total.fail_ratio > options.failures:
        broken.append(f"{total.fail_ratio:.2%} of requests failed, promised {options.failures:.2%}")
    for kind, name in NAMES.items():
        promised_ms = {"many": options.many_p99_ms, BROKEN: 0.0}.get(kind, options.p99_ms)
        seen = environment.stats.get(name, "POST")
        p99_ms = seen.get_response_time_percentile(0.99) if seen.num_requests else 0
        if promised_ms and p99_ms > promised_ms:
            broken.append(f"{name}: p99 is {p99_ms:.0f} ms, promised {promised_ms:.0f} ms")
    return broken
