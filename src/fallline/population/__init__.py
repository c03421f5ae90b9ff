"""Populations: many members of one model shape trained as one program."""

from fallline.population.blocks import block_size as block_size
from fallline.population.crew import Crew as Crew
from fallline.population.crew import shape_of as shape_of
from fallline.population.member import Job as Job
from fallline.population.member import Result as Result
from fallline.population.noise import Noise as Noise
from fallline.population.noise import Unstackable as Unstackable
from fallline.population.passes import make_pass as make_pass
from fallline.population.stack import Stack as Stack
from fallline.population.steppers import Steppers as Steppers
from fallline.population.train import Block as Block
from fallline.population.train import Population as Population
