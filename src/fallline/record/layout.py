"""What a run folder holds, and how its files are told from anybody else's."""

FORMAT = "fallline-run"
VERSION = 1
STATUSES = ("running", "finished", "interrupted", "out of time", "diverged", "failed")
KINDS = ("run", "study", "table", "search")

RUN_FILE = "run.json"
RECORD_FILE = "record.sqlite"
MODEL_FILE = "model.safetensors"
CHECKPOINT_FILE = "checkpoint.safetensors"
PIPELINE_FILE = "pipeline.json"
REPORT_FILE = "report.html"

APPLICATION_ID = 0x464C4E45  # "FLNE", in the header of record.sqlite
SCHEMA = """
CREATE TABLE IF NOT EXISTS scalars(
  run TEXT NOT NULL, key TEXT NOT NULL, split TEXT NOT NULL, step INTEGER NOT NULL, epoch REAL, seconds REAL, value REAL
);
CREATE TABLE IF NOT EXISTS texts(run TEXT NOT NULL, key TEXT NOT NULL, step INTEGER NOT NULL, value TEXT);
CREATE INDEX IF NOT EXISTS scalars_by_series ON scalars(run, key, split, step);
"""
