"""The child process that prepares one SavedModel: a job comes in on stdin, an artifact goes out on stdout.

TensorFlow's loader holds the interpreter for long, keeps memory that it took, and can end the process; here it may.
"""

import contextlib
import os
import sys
from pathlib import Path
from threading import Thread

from darkroom.models.rewriting.job import Job

NICENESS = 10  # a tenth of the CPU beside a server that wants all of it (Linux's weights: 110 to 1024)
OOM_SCORE = Path("/proc/self/oom_score_adj")  # Linux; 1000 is the most
REFUSED = 3  # exit status: what went out is the reason why it cannot be served


def main() -> int:
    """Prepares the job; returns the exit status: 0 or REFUSED."""
    os.nice(NICENESS)
    os.environ["CUDA_VISIBLE_DEVICES"] = (
        "-1"  # what is prepared is proven on the CPU, and a GPU's memory is the server's
    )
    with contextlib.suppress(OSError):
        OOM_SCORE.write_text("1000", "ascii")  # where memory runs out this process goes, not the server
    job = Job.parse(sys.stdin.readline())
    Thread(target=_end_with_parent, daemon=True).start()
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what libraries print must not get among the bytes
        try:
            out.write(_prepare(job))
        except Exception as err:  # noqa: BLE001 - whatever it was, the parent must hear of it
            out.write(str(err).encode())
            return REFUSED
    return 0


def _prepare(job: Job) -> bytes:
    """The artifact of a job, as bytes.

    Raises:
        LoadFailed: it cannot be served.
    """
    from darkroom.models.rewriting.artifact import dump  # noqa: PLC0415 - TensorFlow takes seconds; the parent may be gone by then
    from darkroom.models.rewriting.prepare import prepare_job  # noqa: PLC0415 - as above
    from darkroom.models.runtime.custom_ops import load_custom_ops  # noqa: PLC0415 - as above

    load_custom_ops(job.custom_op_paths)
    return dump(prepare_job(job))


def _end_with_parent() -> None:
    """Leaves when the parent does: it holds the other end of stdin, and never writes a second line."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    # A clean exit would free what the system frees quicker; it took 0.5 s.
    status = main()
    sys.stderr.flush()
    os._exit(status)
