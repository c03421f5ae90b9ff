"""From a record to a page: figure data, drawn twice (interactive and still), in one self-contained HTML file."""

from fallline.report.page import page as page
from fallline.report.page import write as write
from fallline.report.run import run_page as run_page
from fallline.report.still import still as still
from fallline.report.study import study_page as study_page
