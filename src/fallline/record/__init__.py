"""The seam: what a run measured, with units. No torch here."""

from fallline.record.info import holds_run as holds_run
from fallline.record.info import new_info as new_info
from fallline.record.info import read_info as read_info
from fallline.record.info import write_info as write_info
from fallline.record.keys import KEYS as KEYS
from fallline.record.keys import Key as Key
from fallline.record.keys import key as key
from fallline.record.layout import CHECKPOINT_FILE as CHECKPOINT_FILE
from fallline.record.layout import MODEL_FILE as MODEL_FILE
from fallline.record.layout import PIPELINE_FILE as PIPELINE_FILE
from fallline.record.layout import RECORD_FILE as RECORD_FILE
from fallline.record.layout import REPORT_FILE as REPORT_FILE
from fallline.record.layout import RUN_FILE as RUN_FILE
from fallline.record.reader import Reader as Reader
from fallline.record.reader import open_run as open_run
from fallline.record.series import Series as Series
from fallline.record.writer import Writer as Writer
