"""Where blocks of members are trained: here, one after another; or elsewhere, by anything with the same `run`."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from fallline.population import Block, Population, Result
from fallline.record import Writer

Stop = Callable[[], bool]
Tick = Callable[[int, float], None]


class Runner(Protocol):
    """Trains blocks; the record and the results are the same whoever does it."""

    def run(
        self, population: Population, blocks: Sequence[Block], writer: Writer, *, stop: Stop, tick: Tick
    ) -> Iterator[tuple[Block, list[Result] | None]]:
        """Each block with its results, in the order of the blocks; None where the user stopped it, and then nothing more comes."""
        ...

    def close(self) -> None:
        """Leave behind nothing that runs; `run` may be called again."""
        ...


class Local:
    """In this process."""

    def run(
        self, population: Population, blocks: Sequence[Block], writer: Writer, *, stop: Stop, tick: Tick
    ) -> Iterator[tuple[Block, list[Result] | None]]:
        """See `Runner.run`."""
        for block in blocks:
            found = population.run(block, writer, stop=stop, tick=tick)
            yield block, found
            if found is None:
                return

    def close(self) -> None:
        """Nothing runs beside this process."""


def runner_of(cluster: str | None) -> Runner | None:
    """What trains blocks on a cluster; None: in this process.

    Args:
        cluster: "ray", the address of a Ray cluster, or None.
    """
    if cluster is None:
        return None
    from fallline.study.cluster import Ray

    return Ray(None if cluster == "ray" else cluster)
