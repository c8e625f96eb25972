"""Where the files of a run lie, and those that belong to no run."""

import os

from pl_onecycle._lightning import CSVLogger, TensorBoardLogger, pl, rank_zero_warn


def run_directory(trainer: pl.Trainer) -> str:
    """Return the directory of a run, below which Lightning puts its checkpoints; all processes must ask.

    That is the ``log_dir`` of a TensorBoardLogger or CSVLogger, and ``save_dir/name/version`` of any other logger, in a
    run that has begun. The first logger decides; without loggers it is ``default_root_dir``.
    """
    if not trainer.loggers or isinstance(trainer.loggers[0], (TensorBoardLogger, CSVLogger)):
        return trainer.log_dir or trainer.default_root_dir  # `log_dir` is broadcast
    try:
        logger = trainer.loggers[0]
        root = trainer.default_root_dir if logger.save_dir is None else logger.save_dir
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        directory = os.path.join(root, str(logger.name), version)
    except Exception as error:  # a server that is away: not worth the run
        rank_zero_warn(f"{type(logger).__name__} does not say where its run lies ({error}).")
        directory = trainer.default_root_dir
    return trainer.strategy.broadcast(directory)


def directory_without_run(trainer: pl.Trainer) -> str:
    """Return a directory for files that belong to no run, and begin none; all processes must ask.

    For a TensorBoardLogger or CSVLogger that is the directory of the next run, which they now choose; for any other
    logger its ``save_dir``, as asking for more may begin a run; without either it is ``default_root_dir``.
    """
    directory = trainer.log_dir or trainer.default_root_dir  # `log_dir` is broadcast
    # All choose before any directory exists, because a logger would take another's for an earlier run's.
    its = [logger for logger in trainer.loggers if isinstance(logger, (TensorBoardLogger, CSVLogger))]
    for logger in its:
        _ = logger.version
    for logger in its:
        if isinstance(logger, CSVLogger):  # it would later warn that it deletes files in a directory it has not made
            _ = logger.experiment
    return directory
