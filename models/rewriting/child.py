"""The child process that prepares one SavedModel: it reads a job from stdin and writes an artifact to stdout.

TensorFlow's loader holds the interpreter lock for long, does not return memory, and can abort the process. In a child
process none of this affects the server.
"""

import contextlib
import gc
import logging
import os
import sys
import traceback
from pathlib import Path
from threading import Thread

from darkroom.models.rewriting.job import TRYING, Job

NICENESS = 10  # a tenth of the CPU next to a server that uses all of it (Linux's weights: 110 to 1024)
OOM_SCORE = Path("/proc/self/oom_score_adj")  # Linux; 1000 is the maximum
REFUSED = 3  # exit status: stdout has the reason why the SavedModel cannot be served


def main() -> int:
    """Prepares the job that stdin names, and returns the exit status: 0 or REFUSED."""
    os.nice(NICENESS)
    os.environ.setdefault(
        "TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1"
    )  # oneDNN's own pool would keep the weights it has freed
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # proofs run on the CPU, and the GPU's memory belongs to the server
    with contextlib.suppress(OSError):
        OOM_SCORE.write_text("1000", "ascii")  # if memory runs out, Linux kills this process and not the server
    job = Job.parse(sys.stdin.readline())

    def end_with_parent() -> None:
        sys.stdin.read()  # the parent holds the other end of stdin, and never writes a second line
        os._exit(1)

    Thread(target=end_with_parent, daemon=True).start()
    logging.getLogger(TRYING).addHandler(
        handler := logging.StreamHandler()
    )  # so that the parent knows which one ended it
    logging.getLogger(TRYING).setLevel(logging.DEBUG)
    handler.setFormatter(logging.Formatter(f"{TRYING} %(message)s"))
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # libraries that print write to stderr, not into the artifact
        try:
            out.writelines(_prepare(job))
        except Exception as err:  # noqa: BLE001 - the parent reports every failure
            traceback.print_exc()  # for the parent's log
            out.write(str(err).encode())
            return REFUSED
    return 0


def _prepare(job: Job) -> list[bytes | memoryview]:
    """Returns the artifact of a job, as bytes in several parts.

    Raises:
        LoadFailed: the SavedModel cannot be served.
    """
    from darkroom.models.rewriting.artifact import parts  # noqa: PLC0415 - TensorFlow takes seconds, in which the parent may end
    from darkroom.models.rewriting.prepare import prepare_job  # noqa: PLC0415 - as above
    from darkroom.models.runtime.custom_ops import load_custom_ops  # noqa: PLC0415 - as above

    gc.freeze()  # else each collection walks all that TensorFlow imported: 0.2 s, four times a model
    load_custom_ops(job.custom_op_paths)
    return parts(prepare_job(job))


if __name__ == "__main__":
    # A clean exit would free memory piece by piece, which took 0.5 s.
    status = main()
    sys.stderr.flush()
    os._exit(status)
