"""From a record to a page: figure data, drawn twice (interactive and still), in one self-contained HTML file."""

from fallline.report.page import page as page
from fallline.report.page import write as write
from fallline.report.run import run_page as run_page
from fallline.report.still import still as still
from fallline.report.study import study_page as study_page
from fallline.report.table import table_page as table_page
from fallline.report.tune import tune_page as tune_page
