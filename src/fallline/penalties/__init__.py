from fallline.penalties.catalog import PENALTIES as PENALTIES
from fallline.penalties.catalog import describe as describe
from fallline.penalties.elastic import elastic as elastic
from fallline.penalties.l1 import l1 as l1
from fallline.penalties.l2 import l2 as l2
