"""`run_directory`: where the files of a run lie."""

from pl_onecycle._lightning import pl


def run_directory(trainer: pl.Trainer) -> str:
    """Return the directory of a run, that of its logger or ``default_root_dir``; all processes must ask."""
    return trainer.log_dir or trainer.default_root_dir  # `log_dir` is broadcast
