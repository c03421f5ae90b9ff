from fallline.penalties.penalties import elastic as elastic
from fallline.penalties.penalties import l1 as l1
from fallline.penalties.penalties import l2 as l2
