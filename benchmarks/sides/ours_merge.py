"""Our side of merging: mergekit's YAML through the streaming engine, to a model's folder."""

from __future__ import annotations

from pathlib import Path

from harness.side import Clock, job, tell


def main() -> None:
    """Merge one file after the other; loading the libraries is timed apart."""
    work = job()
    with Clock() as loading:
        from truing.core.lazy import own_process, torch
        from truing.core.run import Quiet
        from truing.pipeline.merging import Options, run

        own_process()  # as the command line does
        torch.zeros(1)
    told, errors = [], {}
    for merge in work["merges"]:
        with Clock() as clock:
            try:
                run(Path(merge["file"]), Path(merge["out"]), options=Options(), log=Quiet())
            except Exception as error:  # told, so that the other merges are compared
                errors[merge["out"]] = repr(error)
        told.append(clock.seconds)
    tell(seconds=loading.seconds + sum(told), work_seconds=sum(told), each=told, errors=errors)


if __name__ == "__main__":
    main()
