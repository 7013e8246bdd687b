"""mergekit's side of merging: its own planner and executor, with the options that its command has by default."""

from __future__ import annotations

from pathlib import Path

from harness.side import Clock, job, tell


def main() -> None:
    """Merge one file after the other; loading the libraries is timed apart."""
    work = job()
    with Clock() as loading:
        import yaml
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge
        from mergekit.options import MergeOptions
    told, errors = [], {}
    for merge in work["merges"]:
        with Clock() as clock:
            config = MergeConfiguration.model_validate(yaml.safe_load(Path(merge["file"]).read_text(encoding="utf-8")))
            try:
                run_merge(config, merge["out"], MergeOptions(quiet=True))
            except Exception as error:  # told, so that the other merges are compared
                errors[merge["out"]] = repr(error)
        told.append(clock.seconds)
    tell(seconds=loading.seconds + sum(told), work_seconds=sum(told), each=told, errors=errors)


if __name__ == "__main__":
    main()
