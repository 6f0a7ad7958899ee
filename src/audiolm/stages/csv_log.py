"""The log of a stage, as CSV files that neither a kill nor a full disk takes away."""

import csv
import os
from pathlib import Path

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from audiolm.files import atomic_path, disk_full, found_no_room


class CsvLog(CSVLogger):
    """Lightning's CSVLogger, but the file is replaced whole when a new column comes, and a full disk is said in words."""

    @property
    @rank_zero_experiment
    def experiment(self) -> "_Writer":
        """See `CSVLogger.experiment`."""
        if self._experiment is None:
            os.makedirs(self.root_dir, exist_ok=True)
            self._experiment = _Writer(log_dir=self.log_dir)
        return self._experiment  # type: ignore[return-value]

    def save(self) -> None:
        """Write what was logged since the last time.

        Raises:
            OSError: naming the folder and the remedy, if the disk is full.
        """
        try:
            super().save()
        except OSError as error:
            folder = Path(self.log_dir)
            if found_no_room(error, folder=folder if folder.exists() else folder.parent):
                raise disk_full(folder) from error
            raise


class _Writer(ExperimentWriter):
    def save(self) -> None:
        """Append what was logged; if that fails, the file is as before and nothing counts as written."""
        if not self.metrics:
            return
        columns = sorted({*self.metrics_keys, *(name for row in self.metrics for name in row)})
        if columns != self.metrics_keys:
            self._rewrite_with_new_header(columns)
            self.metrics_keys = columns
        whole_bytes = os.path.getsize(self.metrics_file_path)
        try:
            with open(self.metrics_file_path, "a", newline="") as file:
                csv.DictWriter(file, columns).writerows(self.metrics)
        except OSError:
            os.truncate(self.metrics_file_path, whole_bytes)
            raise
        self.metrics = []

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        rows: list[dict[str, str]] = []
        if os.path.exists(self.metrics_file_path):
            with open(self.metrics_file_path, newline="") as file:
                rows = list(csv.DictReader(file))
        with atomic_path(self.metrics_file_path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames)
            writer.writeheader()
            writer.writerows(rows)
