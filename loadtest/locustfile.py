"""Locust users that send pictures to a Darkroom server in every dialect and check every answer.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8500               # with its page, on port 8089
    locust … --headless --users 16 --run-time 1m --p99-ms 300                   # exit code 1 if the SLO is exceeded
    locust … --headless --users 64 --run-time 1m --arrival-rate 80              # constant arrivals, no think-time
    locust … --mix json=1,binary=1                                              # only these kinds, equally often
    locust -f loadtest/locustfile.py,loadtest/shapes.py … --shape spike         # a changing number of users; or step

A request has one picture in one of the dialects, 32 pictures, or a broken picture. Every flag of this file is also an
environment variable, such as LOADTEST_P99_MS. Needs no packages beyond those of the Locust image.
"""
# mypy sees Locust as Any (pyproject.toml), so also its decorators and its user class:
# mypy: disable-error-code="untyped-decorator,misc"

import random
import sys
import time
from argparse import ArgumentParser
from typing import Any

import gevent
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
NAMES = {  # by their names in --mix; the values are their names in tables
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
    ("model", str, "default", "model_name of the requests"),
    ("think_s", float, 0.1, "mean pause of a user after an answer"),
    ("arrival_rate", float, 0.0, "requests/s of all users together, independent of the latency; 0: use think-time"),
    ("mix", str, MIX, "kinds of requests and their weights: " + ", ".join(NAMES)),
    ("broken_share", float, 0.01, "share of requests with half a JPEG, which must get 400"),
    ("p99_ms", float, 0.0, "SLO: p99 of one-picture requests; 0: none"),
    ("many_p99_ms", float, 0.0, f"SLO: p99 of {MANY_ROWS}-picture requests; 0: none"),
    ("failures", float, 0.0, "SLO: largest share of requests that may fail; wrong answers count as failures"),
)


@events.init_command_line_parser.add_listener
def add_flags(parser: ArgumentParser) -> None:
    """Adds the flags of this file to Locust's own, each with its environment variable."""
    for name, kind, default, text in FLAGS:
        flag, variable = "--" + name.replace("_", "-"), "LOADTEST_" + name.upper()
        parser.add_argument(flag, type=kind, default=default, env_var=variable, help=text)


class Payloads:
    """All request bodies of the run, made once, and the answers that they must get."""

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
    """Reads `json=3,binary=1` as weights by kind.

    Raises:
        KeyError: there is no such kind.
        ValueError: a weight is not a positive number.
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
    """The state of one test run, set at its start."""

    payloads: Payloads | None = None
    timings = TimingStatistics()
    kinds: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()


def is_master(environment: Environment) -> bool:
    """Returns whether this process is a master, whose users run in worker processes."""
    return type(environment.runner).__name__ == "MasterRunner"


@events.init.add_listener
def wake(**_: Any) -> None:
    """Tells gevent's clock the time; it slept through the imports, and --run-time would count them."""
    gevent.get_hub().loop.update_now()


@events.test_start.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """Sends each picture alone to learn its answer, and makes all bodies; ends the run if that fails."""
    options = environment.parsed_options
    RunState.timings = TimingStatistics()
    if is_master(environment):
        return  # its workers do this themselves
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
        print(
            "loadtest: the model gives every picture the same class: swapped answers cannot be noticed", file=sys.stderr
        )


class PictureUser(FastHttpUser):
    """A user that sends a request, waits for the answer, checks it and pauses."""

    connection_timeout = 10.0
    network_timeout = 35.0  # longer than the server's --request_timeout_ms, so that its error arrives

    def on_start(self) -> None:
        """Starts at a random time of the first turn, so that the users are not synchronous."""
        self.turn_s = time.monotonic() + chance.uniform(0, self._turn_length_s())

    def wait_time(self) -> float:
        """Returns an exponential think-time or, with an arrival rate, the rest of this user's turn.

        Turns are counted from the first one, so a late answer does not lower the rate unless it takes longer than a turn.
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
        """Sends one request of the mix, or, with the probability --broken-share, half a picture."""
        if chance.random() < self.environment.parsed_options.broken_share:
            self.send_broken()
        else:
            (kind,) = chance.choices(RunState.kinds, RunState.weights)
            self.send(NAMES[kind], chance.choice(self.payloads.bodies[kind]))

    @property
    def payloads(self) -> Payloads:
        """The bodies of the run, which exist since its start."""
        if RunState.payloads is None:
            raise RescheduleTask
        return RunState.payloads

    def send(self, name: str, body: RequestBody) -> None:
        """Sends a request. Its answer must be 200 and give every picture the class that it got alone."""
        with self.post(name, body) as answer:
            RunState.timings.add(name, (answer.headers or {}).get("Server-Timing"))
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code} {error_text(answer.content or b'')}")
            elif not self.payloads.expectations.agrees(body, answer.content):
                answer.failure("200 with a wrong answer")  # a constant text, so that Locust counts them together
            else:
                answer.success()

    def send_broken(self) -> None:
        """Sends half a JPEG, which must be refused with 400 and its index."""
        with self.post(NAMES[BROKEN], chance.choice(self.payloads.bodies[BROKEN])) as answer:
            said = error_text(answer.content or b"")
            if answer.status_code == 400 and "images[0]" in said:
                answer.success()
            else:
                answer.failure(f"{answer.status_code}, wanted 400 naming images[0]: {said}")

    def post(self, name: str, body: RequestBody) -> ResponseContextManager:
        """Sends a POST; the returned context decides whether the request succeeded.

        With an arrival rate, latency counts from the start of the turn, so the delay by an earlier answer is included.
        """
        is_paced = self.environment.parsed_options.arrival_rate > 0
        late_s = max(0.0, time.monotonic() - self.turn_s) if is_paced else 0.0
        answer = self.client.post(body.path, data=body.data, headers=body.headers, name=name, catch_response=True)
        answer.request_meta["response_time"] += late_s * 1000
        return answer


@events.report_to_master.add_listener
def report(data: dict[str, Any], **_: Any) -> None:
    """Adds this worker's server timings since the last report to its report."""
    data["timings"], RunState.timings = RunState.timings.as_pairs(), TimingStatistics()


@events.worker_report.add_listener
def take_report(data: dict[str, Any], **_: Any) -> None:
    """Adds a worker's server timings to the master's."""
    RunState.timings.merge(data["timings"])


@events.test_stop.add_listener
def finish(environment: Environment, **_: Any) -> None:
    """Prints the table at the end of the run; a headless master prints it later, after its workers' last reports."""
    if not (is_master(environment) and environment.parsed_options.headless):
        tell(environment)


def tell(environment: Environment) -> None:
    """Prints the table of the run: the clients' latencies and the server's timings."""
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
            for times in (RunState.timings.queue, RunState.timings.execute)
            for share in (0.5, 0.99)
        ]
        batch = number(RunState.timings.mean_batch(name))
        rows.append([name, str(seen.num_requests), str(seen.num_failures), *latency, *server, batch])
    if rows:  # a worker has handed its figures to the master
        print(f"\n{table(heads, rows)}\n", flush=True)


@events.quitting.add_listener
def judge(environment: Environment, **_: Any) -> None:
    """Sets the exit code: 0 within the SLO, 1 if it is exceeded, 2 if the run could not begin."""
    if is_master(environment) and environment.parsed_options.headless:
        tell(environment)
    if environment.process_exit_code == 2:
        return
    broken = exceeded_slos(environment)
    for text in broken:
        print(f"loadtest: over the SLO: {text}", file=sys.stderr)
    environment.process_exit_code = 1 if broken else 0


def exceeded_slos(environment: Environment) -> list[str]:
    """Returns a text for each SLO of the flags that the run exceeded."""
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
