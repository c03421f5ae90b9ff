from fallline.activations._base import Activation as Activation
from fallline.activations.catalog import ACTIVATIONS as ACTIVATIONS
from fallline.activations.catalog import describe as describe
from fallline.activations.crelu import crelu as crelu
from fallline.activations.maxout import maxout as maxout
from fallline.activations.prelu import prelu as prelu
from fallline.activations.softminus import softminus as softminus
